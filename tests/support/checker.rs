//! The checker: it is given every id that any client was answered, and reports repeats, and ids that nobody leased.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::fmt;

/// What a load got.
#[derive(Debug, Default)]
pub struct Checker {
    ids: Vec<u64>,
    errors: Vec<String>,
    /// What the nodes leased, half-open; `None` where that is not known.
    blocks: Option<Vec<(u64, u64)>>,
}

/// What the checker found.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub ids: usize,
    /// How many ids were answered again, counted each time.
    pub repeats: usize,
    /// How many ids are in no block that was leased; 0 where the blocks are not known, like the next.
    pub outside: usize,
    /// How many ids were leased and not answered.
    pub lost: u64,
    pub errors: usize,
    /// The first of each, to look at.
    pub first_repeat: Option<u64>,
    pub first_outside: Option<u64>,
    pub first_error: Option<String>,
}

impl Checker {
    pub fn add(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.ids.extend(ids);
    }

    pub fn error(&mut self, what: String) {
        self.errors.push(what);
    }

    /// Takes in what another one was given.
    pub fn merge(&mut self, other: Self) {
        self.ids.extend(other.ids);
        self.errors.extend(other.errors);
        if let Some(blocks) = other.blocks {
            self.leased(blocks);
        }
    }

    /// The half-open blocks that the nodes of this load leased; adds to those that are known.
    pub fn leased(&mut self, blocks: impl IntoIterator<Item = (u64, u64)>) {
        self.blocks.get_or_insert_default().extend(blocks);
    }

    /// The same, with each id moved on: stores that count for themselves are told apart so.
    #[allow(dead_code)] // tests/faults
    pub fn moved_by(mut self, ids: u64) -> Self {
        self.ids.iter_mut().for_each(|id| *id += ids);
        self.blocks.iter_mut().flatten().for_each(|(start, end)| (*start, *end) = (*start + ids, *end + ids));
        self
    }

    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    pub fn verdict(&self) -> Verdict {
        let mut ids = self.ids.clone();
        ids.sort_unstable();
        let mut repeated = ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let first_repeat = repeated.next();
        let repeats = repeated.count() + usize::from(first_repeat.is_some());
        let (mut outside_all, mut lost) = (Vec::new(), 0);
        if let Some(blocks) = &self.blocks {
            outside_all = outside(&ids, blocks);
            ids.dedup();
            let leased: u64 = join(blocks).iter().map(|(start, end)| end - start).sum();
            let unleased = outside(&ids, blocks).len();
            lost = leased - (ids.len() - unleased) as u64;
        }
        Verdict {
            ids: self.ids.len(),
            repeats,
            outside: outside_all.len(),
            lost,
            errors: self.errors.len(),
            first_repeat,
            first_outside: outside_all.first().copied(),
            first_error: self.errors.first().cloned(),
        }
    }

    /// Panics unless exactly `expected` ids came, each once, all of them leased, and no error.
    pub fn assert_clean(&self, expected: usize) {
        let verdict = self.verdict();
        println!("{verdict}");
        let is_clean = verdict.ids == expected && verdict.repeats == 0 && verdict.outside == 0 && verdict.errors == 0;
        assert!(is_clean, "{expected} ids and nothing else were expected: {verdict:?}");
    }
}

/// Those of `ids` that are in none of the half-open `blocks`. Blocks are one node's: give it the ids of one node, and it
/// finds what that node took from another's.
pub fn outside(ids: &[u64], blocks: &[(u64, u64)]) -> Vec<u64> {
    let blocks = join(blocks);
    let is_inside = |id: u64| {
        let after = blocks.partition_point(|(start, _)| *start <= id);
        after > 0 && id < blocks[after - 1].1
    };
    ids.iter().copied().filter(|id| !is_inside(*id)).collect()
}

/// The same blocks in their order, those that touch as one.
fn join(blocks: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut blocks = blocks.to_vec();
    blocks.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in blocks {
        match joined.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// All ids in the body of an answer, of whatever shape: one or many, numbers or strings or ranges, JSON or text. It may be cut
/// anywhere: unless it `is_complete`, a number that stands at its very end could go on, and is not counted. A range whose
/// last id did not come counts as its first one.
pub fn ids_in(body: &[u8], is_complete: bool) -> Vec<u64> {
    let body = String::from_utf8_lossy(body);
    // What is before the ids has a number too: the code. An error's data are null, and its message may have any number.
    let is_json = body.starts_with('{');
    let text = match body.split_once(r#""data":{"#) {
        Some((_, data)) if is_json => data,
        _ if is_json => return Vec::new(),
        _ => body.as_ref(),
    };
    let mut ids = Vec::new();
    for (at, digits) in numbers_in(text) {
        if !is_complete && at + digits.len() == text.len() {
            break;
        }
        let Ok(id) = digits.parse() else { continue };
        // `"last":` and `first-last` close the range whose first one was just seen.
        let before = &text[..at];
        let closes_range = [r#""last":"#, r#""last":""#, "-"].iter().any(|mark| before.ends_with(mark));
        match ids.last().copied() {
            Some(first) if closes_range => ids.extend(first + 1..=id),
            _ => ids.push(id),
        }
    }
    ids
}

/// Every run of digits and where it starts.
fn numbers_in(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(|c: char| c.is_ascii_digit())?;
        let digits = &text[start..];
        let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())];
        from = start + digits.len();
        Some((start, digits))
    })
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ids, repeats, outside, lost, errors, .. } = self;
        write!(f, "{ids} ids, {repeats} repeats, {outside} outside, {lost} lost, {errors} errors")
    }
}

#[test]
fn finds_planted_repeats() {
    let mut checker = Checker::default();
    checker.add(1..=1000);
    assert_eq!(checker.verdict().repeats, 0);
    let mut other = Checker::default();
    other.add([7, 1001, 7, 500]);
    other.error("503".into());
    checker.merge(other);
    let verdict = checker.verdict();
    assert_eq!((verdict.ids, verdict.repeats, verdict.errors, verdict.first_repeat), (1004, 3, 1, Some(7)));
    let caught = std::panic::catch_unwind(|| checker.assert_clean(1004));
    assert!(caught.is_err(), "assert_clean must fail on repeats");
}

#[test]
fn finds_planted_ids_that_were_not_leased_and_counts_the_lost() {
    let mut checker = Checker::default();
    checker.add(101..=150);
    let verdict = checker.verdict();
    assert_eq!((verdict.outside, verdict.lost), (0, 0), "nothing is known of blocks");

    let mut node = Checker::default();
    node.leased([(101, 201)]);
    checker.merge(node);
    assert_eq!(checker.verdict().lost, 50);
    checker.assert_clean(50);

    // Overlapping and touching blocks are leased once.
    checker.leased([(301, 351), (351, 401), (301, 320)]);
    checker.add([100, 201, 300, 301, 400, 401, 401]);
    let verdict = checker.verdict();
    assert_eq!((verdict.outside, verdict.first_outside, verdict.lost), (5, Some(100), 200 - 52), "{verdict:?}");
    assert_eq!((verdict.ids, verdict.repeats), (57, 1));
    assert_eq!(outside(checker.ids(), &[(101, 151), (400, 402)]), [100, 201, 300, 301]);
    let caught = std::panic::catch_unwind(|| checker.assert_clean(57));
    assert!(caught.is_err(), "assert_clean must fail on ids outside");
    assert_eq!(outside(&[0, u64::MAX], &[]), [0, u64::MAX]);
}

#[test]
fn finds_the_ids_of_every_shape_of_answer() {
    let json = |data: &str| format!(r#"{{"code":0,"msg":"ok","data":{data}}}"#);
    for (body, ids) in [
        (json(r#"{"id":101}"#), &[101][..]),
        (json(r#"{"id":"101"}"#), &[101]),
        (json(r#"{"ids":[101,102,301]}"#), &[101, 102, 301]),
        (json(r#"{"ids":["101","102","301"]}"#), &[101, 102, 301]),
        (json(r#"{"ranges":[{"first":101,"last":103},{"first":301,"last":301}]}"#), &[101, 102, 103, 301]),
        (json(r#"{"ranges":[{"first":"101","last":"103"},{"first":"301","last":"301"}]}"#), &[101, 102, 103, 301]),
        ("101".to_owned(), &[101]),
        ("101\n102\n301\n".to_owned(), &[101, 102, 301]),
        ("101-103\n301-301\n".to_owned(), &[101, 102, 103, 301]),
        (r#"{"code":-503,"msg":"try again in 1 s","data":null}"#.to_owned(), &[]),
        (String::new(), &[]),
    ] {
        assert_eq!(ids_in(body.as_bytes(), true), ids, "{body}");
        let mut seen = 0;
        for cut in 0..=body.len() {
            let found = ids_in(&body.as_bytes()[..cut], false);
            assert!(ids.starts_with(&found), "{found:?} in {}", &body[..cut]);
            // Each id is seen as soon as the byte behind it has come, and from then on.
            assert!(found.len() >= seen, "{found:?} in {}", &body[..cut]);
            seen = found.len();
        }
        assert!(seen == ids.len() || body == "101", "{body}: {seen}");
    }
    let ranges = json(r#"{"ranges":[{"first":101,"last":103}"#);
    let cut_at = |end: &str| ids_in(&ranges.as_bytes()[..ranges.find(end).unwrap() + end.len()], false);
    assert_eq!(cut_at(r#""first":101"#), [0; 0], "it may be 1010");
    assert_eq!(cut_at(r#""first":101,"#), [101]);
    assert_eq!(cut_at(r#""last":103"#), [101], "it may be 1030");
    assert_eq!(cut_at(r#""last":103}"#), [101, 102, 103]);
}
