//! Where a request carries its key or token: `Authorization: Bearer ...`, as clients of scoring services send it, or
//! `x-api-key`. gRPC's metadata are the same headers.

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

/// For clients that cannot set `Authorization`, or whose proxy uses it for something else.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The key or token that `headers` carry. `Authorization` with another scheme than `Bearer` says nothing here.
pub fn of(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    bearer
        .or_else(|| headers.get(API_KEY).map(|value| value.as_bytes().trim_ascii()))
        .filter(|key| !key.is_empty())
}

/// What follows the scheme, whose case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn either_header_carries_it_and_bearer_comes_first() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            let headers: HeaderMap = pairs.iter().map(pair).collect();
            super::of(&headers).map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        assert_eq!(of(&[("authorization", "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(of(&[("authorization", "bearer  abc ")]).as_deref(), Some("abc"));
        assert_eq!(of(&[("x-api-key", "abc")]).as_deref(), Some("abc"));
        assert_eq!(of(&[("authorization", "Basic xyz"), ("x-api-key", "abc")]).as_deref(), Some("abc"));
        assert_eq!(of(&[("authorization", "Bearer one"), ("x-api-key", "two")]).as_deref(), Some("one"));
        for nothing in
            [&[][..], &[("authorization", "Bearer ")], &[("authorization", "abc")], &[("x-api-key", " ")]]
        {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
    }
}
