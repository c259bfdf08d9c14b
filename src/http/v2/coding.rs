//! Content codings of request and answer bodies: gzip, deflate (the zlib format), zstd. What a header asks for, and the
//! transformation itself within a size; nothing here knows what the bytes mean.
//!
//! zstd is the reference implementation, because it alone lets the window be capped before memory is taken.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::{
    Compression,
    read::{GzEncoder, MultiGzDecoder as Gunzip, ZlibDecoder as Inflate, ZlibEncoder},
};
use hyper::{
    HeaderMap, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING},
};

use super::super::reply::Failure;
use crate::memory::{Buffer, Charge};

/// What is understood, best first, as header values say it.
pub(super) const KNOWN: &str = "gzip, deflate, zstd";

/// Fast rather than small: most of an answer is digits of floats.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

/// 8 MiB, the most that RFC 9659 lets a sender use.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    /// In the zlib format, as HTTP has it.
    Deflate,
    Zstd,
}

impl Coding {
    const ALL: [Self; 3] = [Self::Zstd, Self::Gzip, Self::Deflate];

    /// Its name in headers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case("x-gzip") { "gzip" } else { name };
        Self::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.name()))
    }

    /// The coding of a request's body, or `None` where it has none.
    ///
    /// # Errors
    /// 501 for others, and for several at once.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(None) };
        let name = value.to_str().unwrap_or_default().trim();
        if name.is_empty() || name.eq_ignore_ascii_case("identity") {
            return Ok(None);
        }
        Self::named(name).map(Some).ok_or_else(|| {
            let short: String = name.chars().take(40).collect();
            let message = format!("Content-Encoding `{short}` is not supported; supported: {KNOWN}");
            let failure = Failure::new(StatusCode::NOT_IMPLEMENTED, "unsupported_encoding", message);
            Failure { accept_encoding: Some(KNOWN), ..failure }
        })
    }

    /// The coding that a client likes best of those known, or `None` where it names none of them or likes plain as well.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        let mut plain = 0.0;
        for item in headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()) {
            for (name, quality) in item.split(',').filter_map(weighted) {
                if name.eq_ignore_ascii_case("identity") {
                    plain = quality;
                }
                if let Some(coding) = Self::named(name) {
                    let better = best.is_none_or(|(other, chosen)| {
                        quality > other || (quality == other && coding.rank() < chosen.rank())
                    });
                    best = if better { Some((quality, coding)) } else { best };
                }
            }
        }
        best.filter(|(quality, _)| *quality > 0.0 && *quality >= plain).map(|(_, coding)| coding)
    }

    fn rank(self) -> usize {
        Self::ALL.iter().position(|coding| *coding == self).unwrap_or(Self::ALL.len())
    }

    /// Bytes that doing it takes beside what goes in and comes out: at these levels windows are small.
    pub(super) fn writing(self) -> usize {
        match self {
            Self::Gzip | Self::Deflate => 512 << 10,
            Self::Zstd => 2 << 20,
        }
    }

    /// Bytes that undoing it takes beside what goes in and comes out.
    fn working(self) -> usize {
        match self {
            // The window, and of gzip's head a name, a comment and extra bytes.
            Self::Gzip | Self::Deflate => 256 << 10,
            // The window, and the block that is being written behind it.
            Self::Zstd => (1 << ZSTD_WINDOW_LOG) + (1 << 20),
        }
    }

    /// Undoes the coding of `body`, to at most `limit` bytes, which are charged as they come, beside `charge`.
    ///
    /// # Errors
    /// 413 as soon as there are more; 400 where the bytes are damaged or cut short; 429 where there is no memory.
    pub(super) fn inflate(self, body: Bytes, limit: usize, charge: &Charge) -> Result<Bytes, Failure> {
        let mut working = charge.another();
        working.add(self.working())?;
        let buffer = Buffer::new(charge.another(), limit);
        match self {
            Self::Gzip => self.read_up_to(Gunzip::new(&body[..]), limit, buffer),
            Self::Deflate => self.read_up_to(Inflate::new(&body[..]), limit, buffer),
            Self::Zstd => {
                let mut decoder =
                    zstd::Decoder::with_buffer(&body[..]).map_err(|error| self.unsound(&error))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|error| self.unsound(&error))?;
                self.read_up_to(decoder, limit, buffer)
            }
        }
    }

    fn read_up_to(self, mut source: impl Read, limit: usize, mut buffer: Buffer) -> Result<Bytes, Failure> {
        let mut chunk = [0; 16 << 10];
        loop {
            let read = source.read(&mut chunk).map_err(|error| self.unsound(&error))?;
            if read == 0 {
                return Ok(buffer.into_bytes());
            }
            if read > limit - buffer.len() {
                let name = self.name();
                let message =
                    format!("the {name} body holds more than the limit of {limit} bytes (--max-body-mib)");
                return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
            }
            buffer.push(&chunk[..read])?;
        }
    }

    fn unsound(self, error: &io::Error) -> Failure {
        Failure::invalid(format!("the body is not sound {}: {error}", self.name()))
    }

    /// `body` in this coding.
    pub(super) fn deflate(self, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(body.len() / 2);
        let level = Compression::new(GZIP_LEVEL);
        match self {
            Self::Gzip => GzEncoder::new(body, level).read_to_end(&mut out).map(drop)?,
            Self::Deflate => ZlibEncoder::new(body, level).read_to_end(&mut out).map(drop)?,
            Self::Zstd => return zstd::encode_all(body, ZSTD_LEVEL),
        }
        Ok(out)
    }
}

/// One item of `Accept-Encoding`: its name and its quality, 1 where it has none.
fn weighted(item: &str) -> Option<(&str, f32)> {
    let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
    let quality = match parameters.trim().strip_prefix("q=") {
        Some(quality) => quality.trim().parse().ok().filter(|quality| (0.0..=1.0).contains(quality))?,
        None => 1.0,
    };
    Some((name.trim(), quality))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::{batch::Client, memory::Budget, metrics::Metrics};

    fn inflate(coding: Coding, body: &[u8], limit: usize) -> Result<Bytes, Failure> {
        let budget = Budget::new(64 << 20, Metrics::new().memory());
        let inflated = coding.inflate(Bytes::copy_from_slice(body), limit, &budget.open(Client::ANONYMOUS));
        assert_eq!(budget.held(), inflated.as_ref().map_or(0, Bytes::len), "only what is kept is charged");
        inflated
    }

    fn accepted(value: &'static str) -> Option<Coding> {
        Coding::accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
    }

    #[test]
    fn every_coding_round_trips_and_stops_at_the_limit() {
        let body = b"probabilities ".repeat(5000);
        for coding in Coding::ALL {
            let small = coding.deflate(&body).unwrap();
            assert!(small.len() < body.len() / 10, "{coding:?}: {}", small.len());
            assert_eq!(inflate(coding, &small, body.len()).unwrap(), body, "{coding:?}");
            let over = inflate(coding, &small, body.len() - 1).unwrap_err();
            assert_eq!(over.status, StatusCode::PAYLOAD_TOO_LARGE, "{coding:?}");
            let cut = inflate(coding, &small[..small.len() - 5], body.len()).unwrap_err();
            assert_eq!(cut.status, StatusCode::BAD_REQUEST, "{coding:?}");
            let alien = inflate(coding, b"{\"inputs\": []}", 100).unwrap_err();
            assert_eq!(alien.status, StatusCode::BAD_REQUEST, "{coding:?}");
        }
    }

    #[test]
    fn a_huge_zstd_window_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        io::copy(&mut io::repeat(7).take(200 << 20), &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(inflate(Coding::Zstd, &bomb, 1 << 20).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_client_chooses_the_coding() {
        assert_eq!(accepted("gzip"), Some(Coding::Gzip));
        assert_eq!(accepted("gzip, deflate"), Some(Coding::Gzip));
        assert_eq!(accepted("deflate, gzip;q=0.5"), Some(Coding::Deflate));
        assert_eq!(accepted("gzip, deflate, br, zstd"), Some(Coding::Zstd));
        for plain in ["", "br", "identity", "gzip;q=0", "gzip;q=x", "identity, gzip;q=0.5", "*"] {
            assert_eq!(accepted(plain), None, "{plain}");
        }
    }

    #[test]
    fn the_request_may_use_one_known_coding() {
        let of = |value| {
            Coding::of_request(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert_eq!(of("GZIP").unwrap(), Some(Coding::Gzip));
        assert_eq!(of("identity").unwrap(), None);
        for unknown in ["br", "gzip, gzip"] {
            let failure = of(unknown).unwrap_err();
            assert_eq!((failure.status.as_u16(), failure.accept_encoding), (501, Some(KNOWN)));
        }
    }
}
