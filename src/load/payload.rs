//! What a request carries: photos, questions or any other body, each with its path and headers made once. Drawn photos
//! and ready questions serve where the caller has none of his own.

use std::io::Cursor;

use ::image::{ImageFormat, Rgb, RgbImage};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Uri,
    header::{CONTENT_TYPE, HOST, HeaderValue},
};
use serde_json::json;

use super::Target;

/// Photos that are drawn. A server may let identical photos in flight share one execution, so they are as many as are
/// usually in flight.
const DRAWN: u32 = 256;

/// Questions about JavaScript, as a user would type them.
const QUESTIONS: [&str; 8] = [
    "how do i remove one item from an array",
    "my array of numbers sorts 10 before 9",
    "what is the difference between let and var",
    "how can I make a deep copy of an object",
    "loop over the keys of an object",
    "wait for several promises at once",
    "check whether a string contains another string",
    "why is 0.1 + 0.2 not 0.3",
];

/// The body of a POST with its path and headers.
#[derive(Debug, Clone)]
pub struct Payload {
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Payload {
    fn new(target: &Target, route: &'static str, content_type: HeaderValue, body: Bytes) -> Self {
        let headers =
            HeaderMap::from_iter([(HOST, target.authority().clone()), (CONTENT_TYPE, content_type)]);
        Self { uri: target.path_or(route), headers, body }
    }

    /// A photo, to `/classify` where the URL has no path.
    pub fn photo(target: &Target, bytes: impl Into<Bytes>) -> Self {
        Self::new(target, "/classify", HeaderValue::from_static("application/octet-stream"), bytes.into())
    }

    /// A question as JSON, to `/faq` where the URL has no path.
    pub fn question(target: &Target, text: &str) -> Self {
        let body = json!({ "question": text }).to_string();
        Self::new(target, "/faq", HeaderValue::from_static("application/json"), body.into())
    }

    /// Anything, to the URL's own path.
    pub fn body(target: &Target, content_type: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self::new(target, "/", content_type, bytes.into())
    }

    /// Photos that differ from each other, drawn on the spot: JPEG, 320x240.
    pub fn drawn_photos(target: &Target) -> Vec<Self> {
        (0..DRAWN).map(|index| Self::photo(target, draw(index))).collect()
    }

    /// A few questions.
    pub fn ready_questions(target: &Target) -> Vec<Self> {
        QUESTIONS.iter().map(|text| Self::question(target, text)).collect()
    }

    /// With `extra` headers, which replace those of the same name.
    #[must_use]
    pub fn with_headers(mut self, extra: &HeaderMap) -> Self {
        for name in extra.keys() {
            self.headers.remove(name);
        }
        for (name, value) in extra {
            self.headers.append(name, value.clone());
        }
        self
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Bytes of the body.
    pub(super) fn size(&self) -> u64 {
        self.body.len() as u64
    }

    /// A request to send; body and header values are shared, not copied.
    pub(super) fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Waves whose phase and direction depend on `index`.
fn draw(index: u32) -> Vec<u8> {
    let (across, down) = ((1 + index % 16) as f32 / 60.0, (1 + index / 16) as f32 / 60.0);
    let image = RgbImage::from_fn(320, 240, |x, y| {
        let (x, y) = (x as f32 * across, y as f32 * down);
        let wave = |phase: f32| (127.5 + 127.5 * (x + phase).sin() * (y - phase).cos()) as u8;
        Rgb([wave(0.0), wave(1.0), wave(2.0)])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Jpeg).expect("bug: a drawn photo can be written to memory");
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hyper::header::ACCEPT;

    use super::*;

    #[test]
    fn the_url_decides_the_path_and_the_kind_of_payload_where_it_has_none() {
        let root: Target = "http://convoy:8080".parse().unwrap();
        assert_eq!(Payload::photo(&root, "x").path(), "/classify");
        assert_eq!(Payload::question(&root, "x").path(), "/faq");
        let own: Target = "http://convoy:8080/other?a=1".parse().unwrap();
        assert_eq!(Payload::question(&own, "x").path(), "/other?a=1");
        let request = Payload::question(&root, "say \"x\"").request();
        assert_eq!(
            (request.method(), request.headers()[HOST].as_bytes()),
            (&Method::POST, &b"convoy:8080"[..])
        );
        assert_eq!(Payload::question(&root, "say \"x\"").body, r#"{"question":"say \"x\""}"#);
    }

    #[test]
    fn given_headers_replace_those_of_the_same_name_and_may_repeat() {
        let root: Target = "http://convoy".parse().unwrap();
        let mut extra = HeaderMap::new();
        extra.append(HOST, HeaderValue::from_static("other"));
        extra.append(ACCEPT, HeaderValue::from_static("a"));
        extra.append(ACCEPT, HeaderValue::from_static("b"));
        let headers = Payload::photo(&root, "x").with_headers(&extra).headers;
        assert_eq!(headers.get_all(HOST).iter().collect::<Vec<_>>(), ["other"]);
        assert_eq!(headers.get_all(ACCEPT).iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn drawn_photos_are_photos_and_all_different() {
        let root: Target = "http://convoy".parse().unwrap();
        let photos = Payload::drawn_photos(&root);
        let distinct: BTreeSet<_> = photos.iter().map(|photo| photo.body.clone()).collect();
        assert_eq!(distinct.len(), DRAWN as usize);
        let image = ::image::load_from_memory(&photos[17].body).unwrap();
        assert_eq!((image.width(), image.height()), (320, 240));
    }
}
