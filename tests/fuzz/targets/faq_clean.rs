//! A stranger's question: cleaning, features, ranking.

use std::{cell::RefCell, sync::Arc};

use convoy::faq::{
    Loaded, Matcher,
    clean::{MAX_TEXT_BYTES, clean, clean_into},
};

pub fn run(data: &[u8]) {
    thread_local! {
        static MATCHER: RefCell<Matcher> = RefCell::new(matcher());
    }
    let text = String::from_utf8_lossy(data);
    let cleaned = clean(&text);
    let mut again = String::from("what was there before");
    clean_into(&text, &mut again);
    assert_eq!(cleaned, again);
    // Lower case may take more bytes: three for two is the most.
    assert!(cleaned.len() <= MAX_TEXT_BYTES.min(text.len()) * 3 / 2 + 3);
    assert!(!cleaned.starts_with(' ') && !cleaned.ends_with(' ') && !cleaned.contains("  "), "{cleaned:?}");
    assert!(!cleaned.contains(|c: char| c.is_control() || c.is_ascii_uppercase()), "{cleaned:?}");
    MATCHER.with_borrow_mut(|matcher| super::faq_model::check_answer(matcher, &text));
}

fn matcher() -> Matcher {
    let loaded = Loaded::new(super::faq_model::model().clone(), None).unwrap();
    Matcher::new(Arc::new(loaded))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "What does Array.prototype.map() do?",
        "<p>Over at <em>MO</em>,</p>\n\n<p>it's</p>",
        "<a href=\"https://x.org/?a>b\" title='c > d'>text</a> <!-- hidden --> <SCRIPT>alert(1)</script>",
        "see <pre><code>let x = 1;\nlet y;\n</code></pre> a ```rust\nfn f() {}\n``` b `map()`",
        "Tom &amp; Jerry&#39;s &quot;caf&#xE9;&quot;&nbsp;&lt;div&gt; &#0; &#xD800; www.example.org",
        "\u{feff}zero\u{200b}width\u{0}and\ttab don’t \u{130}stanbul \u{1F600}",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
