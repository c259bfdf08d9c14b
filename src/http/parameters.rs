//! What a JSON body may say of its request, in the words of the V2 protocol.

use std::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;

use super::json;
use crate::{batch::Terms, v2::request::tightened};

/// The `parameters` of `/faq` and `/score`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub(super) struct Parameters {
    /// Microseconds until the answer is worth nothing; 0 says nothing.
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    timeout: Option<u64>,
}

impl Parameters {
    /// The earlier deadline that the body asks for, if it does.
    pub(super) fn tightened(self, terms: &Terms, arrived: Instant) -> Option<Terms> {
        tightened(self.timeout, terms, arrived)
    }
}
