//! convoy scores photos and questions in real time.
pub mod app;
pub mod batch;
pub mod cli;
pub mod config;
pub mod error;
pub mod faq;
pub mod http;
pub mod image;
pub mod metrics;
pub mod vision;
