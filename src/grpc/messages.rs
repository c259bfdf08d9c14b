//! The messages of a call as they come: each is passed on when it is whole, looked over and charged.
//!
//! What is behind decodes a message from a copy of its own, so that the bytes are there twice for a moment. What a decoded
//! message holds is charged apart, and whoever handles it takes that charge along: [`Charges`].

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep_until};
use tonic::Status;

use super::{
    codec::{Checked, Held},
    proto::ModelInferRequest,
    status,
};
use crate::memory::{Buffer, Charge, Full};

/// Compression and length before each message.
const PREFIX: usize = 5;

/// What the messages that were passed on are charged, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Charges(Arc<Mutex<VecDeque<Charge>>>);

impl Charges {
    /// That of the next message; `None` where it is not charged.
    pub(super) fn next(&self) -> Option<Charge> {
        self.0.lock().pop_front()
    }
}

/// What messages may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most bytes of one.
    pub(super) size: usize,
    /// Longest silence within one.
    pub(super) stall: Duration,
    /// For one to arrive.
    pub(super) whole: Duration,
    /// Whether the first byte is awaited no longer than the next.
    pub(super) at_once: bool,
    /// Whether they are infer requests.
    pub(super) infer: bool,
}

/// A request's body, message by message.
pub(super) struct Messages<B> {
    body: B,
    limits: Limits,
    charge: Charge,
    charges: Charges,
    /// What has come and is part of no message yet.
    rest: Bytes,
    message: Option<Gathering>,
    silence: Pin<Box<Sleep>>,
    /// Longer than any may be: whoever decodes it says so.
    too_large: bool,
    /// How many have come.
    count: usize,
}

struct Gathering {
    buffer: Buffer,
    began: Instant,
}

impl<B> Messages<B> {
    /// The messages in `body`, charged beside `charge`.
    pub(super) fn new(body: B, limits: Limits, charge: &Charge) -> (Self, Charges) {
        let charges = Charges::default();
        let messages = Self {
            body,
            limits,
            charge: charge.another(),
            charges: charges.clone(),
            rest: Bytes::new(),
            message: None,
            silence: Box::pin(sleep_until((Instant::now() + limits.stall).into())),
            too_large: false,
            count: 0,
        };
        (messages, charges)
    }

    /// The next message, if what has come holds it whole.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        while !self.rest.is_empty() {
            let message = self.message.get_or_insert_with(|| Gathering {
                buffer: Buffer::new(self.charge.another(), PREFIX),
                began: Instant::now(),
            });
            let missing = match message.buffer.prefix() {
                None => PREFIX - message.buffer.len(),
                Some(length) => PREFIX + length - message.buffer.len(),
            };
            let taken = self.rest.split_to(missing.min(self.rest.len()));
            message.buffer.push(&taken).map_err(full)?;
            let Some(length) = message.buffer.prefix() else { continue };
            self.too_large = length > self.limits.size;
            if message.buffer.len() == PREFIX + length || self.too_large {
                let Gathering { buffer, .. } = self.message.take().expect("bug: it is being gathered");
                return self.whole(buffer).map(Some);
            }
            message.buffer.expect(PREFIX + length);
        }
        Ok(None)
    }

    fn whole(&mut self, buffer: Buffer) -> Result<Bytes, Status> {
        self.count += 1;
        if self.count > 1 && self.limits.at_once {
            return Err(Status::invalid_argument("the method takes one message, and a second one came"));
        }
        let bytes = buffer.into_bytes();
        let message = &bytes[PREFIX..];
        if !self.too_large && self.limits.infer {
            let Held(beside) = ModelInferRequest::check(message)?;
            let mut charge = self.charge.another();
            charge.add(message.len().saturating_add(beside)).map_err(full)?;
            self.charges.0.lock().push_back(charge);
        }
        Ok(bytes)
    }

    /// Whether the client has been silent for too long, or is too slow.
    fn poll_patience(&mut self, task: &mut Task<'_>) -> Poll<Status> {
        if self.message.is_none() && !self.limits.at_once {
            return Poll::Pending;
        }
        ready!(self.silence.poll_unpin(task));
        Poll::Ready(Status::deadline_exceeded(format!(
            "the message did not arrive within {} ms, or no byte of it for {} ms (--body-stall-ms)",
            self.limits.whole.as_millis(),
            self.limits.stall.as_millis()
        )))
    }

    fn be_patient(&mut self) {
        let silent = Instant::now() + self.limits.stall;
        let by = self.message.as_ref().map(|message| message.began + self.limits.whole);
        self.silence.as_mut().reset(by.map_or(silent, |by| by.min(silent)).into());
    }
}

fn full(full: Full) -> Status {
    status::full(&full)
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Messages<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match self.take() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            if self.too_large {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.body).poll_frame(task) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(mut data) => {
                        self.rest = data.copy_to_bytes(data.remaining());
                        self.be_patient();
                    }
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Status::from_error(Box::new(error)))));
                }
                // What is there of a message says that it was cut short.
                Poll::Ready(None) => {
                    let cut = self.message.take().map(|message| message.buffer.into_bytes());
                    return Poll::Ready(cut.map(|bytes| Ok(Frame::data(bytes))));
                }
                Poll::Pending => return self.poll_patience(task).map(|late| Some(Err(late))),
            }
        }
    }
}

impl Buffer {
    /// The length of the message whose prefix is there.
    fn prefix(&self) -> Option<usize> {
        let prefix = self.as_slice().first_chunk::<PREFIX>()?;
        Some(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize)
    }
}
