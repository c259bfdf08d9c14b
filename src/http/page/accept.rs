//! Whether a client would rather have a page than text, by its `Accept`. Only a client that names HTML is a browser:
//! `*/*` is what probes and programs send.

use hyper::{HeaderMap, header::ACCEPT};

/// Whether `headers` name `text/html`, and like it no less than plain text.
pub(super) fn prefers_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<_> = values.flat_map(|value| value.split(',')).filter_map(range).collect();
    let quality = |kinds: &[&str]| {
        let named = kinds.iter().find_map(|kind| ranges.iter().find(|(name, _)| name == kind));
        named.map_or(0.0, |(_, quality)| *quality)
    };
    let html = quality(&["text/html"]);
    html > 0.0 && html >= quality(&["text/plain", "text/*", "*/*"])
}

/// A media range in lower case and its quality, 1 where it has none.
fn range(item: &str) -> Option<(String, f32)> {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next()?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let quality = weight.map_or(Some(1.0), |text| text.parse().ok())?;
    (0.0..=1.0).contains(&quality).then_some((name, quality))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn wants(value: &'static str) -> bool {
        prefers_html(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]))
    }

    #[test]
    fn browsers_get_the_page_and_programs_do_not() {
        for browser in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            "text/html",
            "Text/HTML;level=1",
            "text/plain;q=0.5, text/html; q=0.8",
            "text/html;q=0.1, */*;q=0",
        ] {
            assert!(wants(browser), "{browser}");
        }
        for program in [
            "*/*",
            "",
            "application/json",
            "text/*",
            "text/html;q=0",
            "text/html;q=0.3, */*;q=0.8",
            "text/plain, text/html;q=0.9",
            "text/html;q=x",
            "text/html;q=2",
            "text/htmlx",
        ] {
            assert!(!wants(program), "{program}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
