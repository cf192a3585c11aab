//! The checker: it is given every id that any client was answered, and reports repeats.

use std::fmt;

/// What a load got.
#[derive(Debug, Default)]
pub struct Checker {
    ids: Vec<u64>,
    errors: Vec<String>,
}

/// What the checker found.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub ids: usize,
    /// How many ids were answered again, counted each time.
    pub repeats: usize,
    pub errors: usize,
    /// The first of each, to look at.
    pub first_repeat: Option<u64>,
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
    }

    pub fn errors(&self) -> &[String] {
        &self.errors
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
        Verdict {
            ids: ids.len(),
            repeats,
            errors: self.errors.len(),
            first_repeat,
            first_error: self.errors.first().cloned(),
        }
    }

    /// Panics unless exactly `expected` ids came, each once, and no error.
    pub fn assert_clean(&self, expected: usize) {
        let verdict = self.verdict();
        let clean = Verdict { ids: expected, repeats: 0, errors: 0, first_repeat: None, first_error: None };
        assert_eq!(verdict, clean);
        println!("{verdict}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ids, {} repeats, {} errors", self.ids, self.repeats, self.errors)
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
