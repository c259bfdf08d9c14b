//! Cuts a cleaned text into grams - words and operators, pairs of them, and character 2- to 4-grams inside them - and
//! weighs them by TF-IDF. It owns the gram hash, the vocabulary and the weighting; what is learnt from the features lives elsewhere.
//!
//! A gram is known by a 64-bit hash of its characters, so no gram is ever a string. Of a million distinct grams two
//! share a hash with a chance of about 3e-8; they would then merely share a weight.

use rustc_hash::FxHashMap;
use std::iter::Peekable;
use std::str::Chars;

/// The kinds of gram. Each kind is weighed and normalised on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// One word or operator.
    Word = 0,
    /// Two neighbours of those.
    Pair = 1,
    /// Two to four characters of a word padded with one space at either end.
    Chars = 2,
}

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = 3;

    /// The kind with this number.
    pub fn from_index(index: u8) -> Option<Self> {
        [Self::Word, Self::Pair, Self::Chars].get(usize::from(index)).copied()
    }
}

/// The shortest and the longest character gram. Cross-validation prefers these to 3 to 5 by little; they are fewer.
const CHARS: std::ops::RangeInclusive<usize> = 2..=4;

/// Share of the squared length of a text's vector that words and pairs have together; character grams have the rest.
/// Chosen by cross-validation, which is flat from a fifth to a half.
const WORD_SHARE: f32 = 0.5;

/// Which length a gram counts towards: words and pairs share one.
const fn norm_group(kind: Kind) -> usize {
    matches!(kind, Kind::Chars) as usize
}

/// Calls `each` for every gram of `text`, in order, repeats included. `word` is scratch space.
pub fn for_each_gram(text: &str, word: &mut Vec<char>, mut each: impl FnMut(Kind, u64)) {
    let mut previous = None;
    let mut chars = text.chars().peekable();
    while next_word(&mut chars, word) {
        let hash = word_grams(word, &mut each);
        if let Some(previous) = previous {
            each(Kind::Pair, finish(Kind::Pair, absorb(previous, hash)));
        }
        previous = Some(hash);
    }
}

/// Reads the next word or operator into `word`, padded with a space at either end; false at the end of the text.
fn next_word(chars: &mut Peekable<Chars<'_>>, word: &mut Vec<char>) -> bool {
    loop {
        word.clear();
        word.push(' ');
        match chars.peek().copied() {
            None => return false,
            Some(next) if next.is_alphanumeric() => take_word(chars, word),
            Some(next) if is_symbol(next) => take_operator(chars, word),
            Some(_) => drop(chars.next()),
        }
        if word.len() > 1 {
            word.push(' ');
            return true;
        }
    }
}

/// A run of letters and digits. Apostrophes inside are dropped ("doesn't", "doesnt"); `+` and `#` stay ("c++").
fn take_word(chars: &mut Peekable<Chars<'_>>, word: &mut Vec<char>) {
    let inside = |next: &char| next.is_alphanumeric() || matches!(next, '+' | '#' | '\'');
    while let Some(next) = chars.next_if(inside) {
        if next != '\'' {
            word.push(next);
        }
    }
}

/// A run of symbols such as `===` or `=>`; what may be punctuation is no operator when it stands alone.
fn take_operator(chars: &mut Peekable<Chars<'_>>, word: &mut Vec<char>) {
    while let Some(next) = chars.next_if(|next| is_symbol(*next)) {
        word.push(next);
    }
    if matches!(word[..], [_, '.' | '?' | '!' | ':' | '-' | '/']) {
        word.truncate(1);
    }
}

fn is_symbol(next: char) -> bool {
    "=<>!&|?.*~^%/-+:$@#".contains(next)
}

/// Emits a padded word and its character grams; returns the word's running hash for pairing.
fn word_grams(padded: &[char], each: &mut impl FnMut(Kind, u64)) -> u64 {
    let word =
        padded[1..padded.len() - 1].iter().fold(0, |hash, next| absorb(hash, u64::from(u32::from(*next))));
    each(Kind::Word, finish(Kind::Word, word));
    for start in 0..=padded.len() - CHARS.start() {
        let mut hash = 0;
        for (index, next) in padded[start..].iter().take(*CHARS.end()).enumerate() {
            hash = absorb(hash, u64::from(u32::from(*next)));
            if index + 1 >= *CHARS.start() {
                each(Kind::Chars, finish(Kind::Chars, hash));
            }
        }
    }
    word
}

/// One step of the FxHash recurrence (rustc-hash 1).
const fn absorb(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// Mixes the kind in and spreads the bits with the finaliser of MurmurHash3 (Appleby).
const fn finish(kind: Kind, hash: u64) -> u64 {
    let mut mixed = hash ^ (kind as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// One known gram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Hash of its kind and characters.
    pub hash: u64,
    /// Its kind.
    pub kind: Kind,
    /// Inverse document frequency, `ln((1 + n) / (1 + df)) + 1` as in scikit-learn's smoothed form.
    pub idf: f32,
}

/// The known grams; a feature is an index into them.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    entries: Vec<Entry>,
    index: FxHashMap<u64, u32>,
    /// Weight of a gram that is not known, for the length of a text only: the idf of one that occurs nowhere.
    unknown_idf: f32,
}

impl Vocabulary {
    /// Learns the grams of cleaned `texts`, and keeps the `max_features` that occur in most of them; among equals words
    /// before pairs before characters, then by hash. A gram's index follows the same order.
    pub fn fit<'a>(texts: impl Iterator<Item = &'a str>, max_features: usize) -> Self {
        let (counts, texts) = document_frequencies(texts);
        let mut counts: Vec<_> = counts.into_iter().map(|(hash, (kind, df, _))| (df, kind, hash)).collect();
        counts.sort_unstable_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        counts.truncate(max_features);
        let entry = |(df, kind, hash)| Entry { hash, kind, idf: idf(texts, df) };
        Self::from_entries(counts.into_iter().map(entry).collect(), idf(texts, 0))
    }

    /// A vocabulary of exactly these grams.
    pub fn from_entries(entries: Vec<Entry>, unknown_idf: f32) -> Self {
        let index = entries.iter().zip(0..).map(|(entry, index)| (entry.hash, index)).collect();
        Self { entries, index, unknown_idf }
    }

    /// The grams by index.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Weight of an unknown gram in the length of a text.
    pub fn unknown_idf(&self) -> f32 {
        self.unknown_idf
    }
}

/// In how many texts each gram occurs, and the number of texts. The third field is the last text it was seen in.
fn document_frequencies<'a>(texts: impl Iterator<Item = &'a str>) -> (FxHashMap<u64, (Kind, u32, u32)>, u32) {
    let mut counts = FxHashMap::default();
    let mut word = Vec::new();
    let mut number = 0;
    for text in texts {
        number += 1;
        for_each_gram(text, &mut word, |kind, hash| {
            let (_, df, last) = counts.entry(hash).or_insert((kind, 0, 0));
            if *last != number {
                (*df, *last) = (*df + 1, number);
            }
        });
    }
    (counts, number)
}

fn idf(texts: u32, df: u32) -> f32 {
    ((1.0 + f64::from(texts)) / (1.0 + f64::from(df))).ln() as f32 + 1.0
}

/// The features of one text at a time; reused so that a text costs no allocation.
#[derive(Debug, Default)]
pub struct Featurizer {
    word: Vec<char>,
    /// Occurrences in the current text, by feature; zero between texts.
    counts: Vec<u32>,
    features: Vec<u32>,
    values: Vec<f32>,
}

/// The known grams of one text: which, and their TF-IDF values.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Distinct indices into the vocabulary, in order of first occurrence.
    pub indices: &'a [u32],
    /// `(1 + ln tf) * idf`, scaled so that the words and pairs of the whole text, unknown ones included, and its
    /// character grams have their fixed shares of a squared length of one.
    pub values: &'a [f32],
}

impl Featurizer {
    /// The features of a cleaned text.
    pub fn features(&mut self, vocabulary: &Vocabulary, text: &str) -> Features<'_> {
        let Self { word, counts, features, values } = self;
        features.clear();
        values.clear();
        counts.resize(vocabulary.entries.len(), 0);
        let mut squares = [0.0; 2];
        let unknown = vocabulary.unknown_idf * vocabulary.unknown_idf;
        for_each_gram(text, word, |kind, hash| match vocabulary.index.get(&hash) {
            Some(&index) => {
                let count = &mut counts[index as usize];
                *count += 1;
                if *count == 1 {
                    features.push(index);
                }
            }
            None => squares[norm_group(kind)] += unknown,
        });
        for index in &*features {
            let entry = &vocabulary.entries[*index as usize];
            let count = std::mem::take(&mut counts[*index as usize]);
            let tf = if count == 1 { 1.0 } else { 1.0 + (count as f32).ln() };
            values.push(tf * entry.idf);
            squares[norm_group(entry.kind)] += (tf * entry.idf).powi(2);
        }
        let scale = [(WORD_SHARE / squares[0]).sqrt(), ((1.0 - WORD_SHARE) / squares[1]).sqrt()];
        for (index, value) in features.iter().zip(&mut *values) {
            *value *= scale[norm_group(vocabulary.entries[*index as usize].kind)];
        }
        Features { indices: features, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grams(text: &str) -> Vec<(Kind, u64)> {
        let mut all = Vec::new();
        for_each_gram(text, &mut Vec::new(), |kind, hash| all.push((kind, hash)));
        all
    }

    #[test]
    fn counts_of_grams_follow_their_definition() {
        let count = |text: &str, kind| grams(text).iter().filter(|gram| gram.0 == kind).count();
        assert_eq!(count("one two, three", Kind::Word), 3);
        assert_eq!(count("one two, three", Kind::Pair), 2);
        // " word " has 5 + 4 + 3 substrings of 2, 3 and 4 characters.
        assert_eq!(count("word", Kind::Chars), 12);
        assert_eq!(count("a", Kind::Chars), 3);
        assert!(grams("? ! . ' ' - ( ) : [] {},").is_empty());
    }

    #[test]
    fn spelling_variants_meet() {
        assert_eq!(grams("doesn't work?"), grams("doesnt work"));
        assert_eq!(grams("is it, really?"), grams("is it really"));
        assert_ne!(grams("c++"), grams("c#"));
        assert_ne!(grams("a == b"), grams("a === b"));
        assert_ne!(grams("ab cd"), grams("cd ab"));
    }

    #[test]
    fn kinds_of_gram_never_share_a_hash() {
        let mut all = grams("the that than then");
        all.sort_unstable();
        all.dedup();
        let mut hashes: Vec<_> = all.iter().map(|gram| gram.1).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn the_vocabulary_keeps_the_most_frequent_grams() {
        let all = Vocabulary::fit(["red fox", "red dog", "red"].into_iter(), usize::MAX);
        let few = Vocabulary::fit(["red fox", "red dog", "red"].into_iter(), 4);
        assert_eq!(few.entries(), &all.entries()[..4]);
        assert_eq!(few.entries()[0].kind, Kind::Word);
        assert_eq!(few.entries()[0].idf, 1.0);
    }

    #[test]
    fn values_have_length_one_and_unknown_grams_shrink_them() {
        let vocabulary = Vocabulary::fit(["red fox", "red dog"].into_iter(), usize::MAX);
        let mut featurizer = Featurizer::default();
        let mut length = |text| {
            let features = featurizer.features(&vocabulary, text);
            features.values.iter().map(|value| value * value).sum::<f32>()
        };
        assert!((length("red fox") - 1.0).abs() < 1e-6);
        assert!(length("red zzzzzz") < 0.5);
        assert_eq!(length("zzzzzz"), 0.0);
        assert_eq!(length(""), 0.0);
    }
}
