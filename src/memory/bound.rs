//! Memory at worst: a sum over everything that grows with what strangers do, from what a server was told to allow.
//!
//! Pure: what was measured and configured comes in, bytes by part come out. `tests/memory.rs` attacks a server whose memory
//! has to stay below this.

use std::fmt;

/// Bytes of a question that waits, and of each original in a ranking.
const QUESTION: u64 = 33 << 10;
const RANKED: u64 = 16;

/// A job whose client has gone lies in the way to its queue until a thread looks, beside the one that got its seat.
const ABANDONED: u64 = 2;

/// What the allocator keeps beside what is in use: a part in so many of all that comes and goes.
const SLACK: u64 = 4;

/// What a server was told to allow, and what it has in use before anybody has asked for anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Bytes in use with models loaded and warmed up.
    pub loaded: u64,
    /// Bytes that loading them took at most; zero where they cannot be replaced while they serve.
    pub replacing: u64,
    /// Bytes of requests and answers.
    pub bodies: u64,
    /// Threads that decode, and bytes that each may take for it.
    pub decoders: u64,
    /// See `decoders`.
    pub decoding: u64,
    /// Seats for photos, and bytes of a picture that waits for the engine.
    pub photos: u64,
    /// See `photos`.
    pub picture: u64,
    /// Seats for questions, and originals that each is compared with.
    pub questions: u64,
    /// See `questions`.
    pub originals: u64,
    /// Connections on all ports that strangers reach, together, and bytes that each may hold beside what is charged.
    pub connections: u64,
    /// See `connections`.
    pub connection: u64,
}

/// Bytes by part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    parts: [(&'static str, u64); 7],
}

impl Bound {
    /// The sum for `allowed`.
    pub fn of(allowed: &Allowed) -> Self {
        let Allowed { loaded, replacing, bodies, .. } = *allowed;
        let decoding = allowed.decoders.saturating_mul(allowed.decoding);
        let photos = allowed.photos.saturating_mul(ABANDONED * allowed.picture);
        let question = QUESTION + allowed.originals.saturating_mul(RANKED);
        let questions = allowed.questions.saturating_mul(ABANDONED * question);
        let queues = photos.saturating_add(questions);
        let connections = allowed.connections.saturating_mul(allowed.connection);
        let moving = [bodies, decoding, queues, connections].into_iter().fold(0, u64::saturating_add);
        Self {
            parts: [
                ("loaded", loaded),
                ("replacing", replacing),
                ("bodies", bodies),
                ("decoding", decoding),
                ("queues", queues),
                ("connections", connections),
                ("allocator", moving / SLACK),
            ],
        }
    }

    /// Bytes of each part.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.parts.into_iter()
    }

    /// Bytes of all.
    pub fn total(&self) -> u64 {
        self.parts().fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }
}

/// In MiB: the sum, then its parts.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(f, "{} MiB:", mib(self.total()))?;
        let mut parts = self.parts().filter(|(_, bytes)| *bytes > 0);
        parts.try_for_each(|(part, bytes)| write!(f, " {part} {}", mib(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn everything_that_is_allowed_counts() {
        let none = Bound::of(&Allowed::default());
        assert_eq!((none.total(), none.to_string()), (0, "0 MiB:".to_owned()));
        let allowed = Allowed {
            loaded: 100 * MIB,
            bodies: 64 * MIB,
            decoders: 2,
            decoding: 40 * MIB,
            photos: 10,
            picture: MIB,
            connections: 4,
            connection: MIB / 2,
            ..Allowed::default()
        };
        let bound = Bound::of(&allowed);
        let moving = 64 + 2 * 40 + 2 * 10 + 2;
        assert_eq!(bound.total(), (100 + moving) * MIB + moving * MIB / SLACK);
        let text = bound.to_string();
        assert_eq!(text, "308 MiB: loaded 100 bodies 64 decoding 80 queues 20 connections 2 allocator 42");
        let more = |change: fn(&mut Allowed)| {
            let mut allowed = allowed;
            change(&mut allowed);
            Bound::of(&allowed).total() > bound.total()
        };
        assert!(more(|allowed| allowed.replacing = 1) && more(|allowed| allowed.questions = 1));
        assert_eq!(Bound::of(&Allowed { bodies: u64::MAX, ..allowed }).total(), u64::MAX);
    }
}
