//! Which part of a cluster may go on: the one with most of the members that were recorded.
//!
//! A cluster that is cut in two, or bootstrapped from one node, has the same name and data on both sides. Each side has its
//! own record of the members, in its own copy of the database. A part with a majority of the recorded members goes on, and
//! records the present ones. So of two parts only one can go on, and a part that was left behind can never catch up.

/// The members of a cluster, in order; empty for a server without a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members(Vec<String>);

impl Members {
    pub(super) fn new(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// Reads what [`recorded`](Self::recorded) wrote.
    pub(super) fn parse(recorded: &str) -> Self {
        Self::new(recorded.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// As `seqsvr_meta.members` has them.
    pub(super) fn recorded(&self) -> String {
        self.0.join(" ")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// Whether these members may go on for the `recorded` ones: they include more than half of those, or exactly half with the
    /// first one. So a cluster of two outlives the loss of its second node, but not of its first.
    pub(super) fn is_majority_of(&self, recorded: &Self) -> bool {
        let here = recorded.0.iter().filter(|name| self.contains(name)).count();
        let has_first = recorded.0.first().is_none_or(|first| self.contains(first));
        2 * here > recorded.0.len() || (2 * here == recorded.0.len() && has_first)
    }

    /// For a message: `1 of the 3 recorded members`.
    pub(super) fn share_of(&self, recorded: &Self) -> String {
        let here = recorded.0.iter().filter(|name| self.contains(name)).count();
        format!("{here} of the {} recorded members", recorded.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_part_goes_on() {
        for (recorded, present, goes_on) in [
            ("", "", true),
            ("", "a b", true),
            ("a b c", "a b c", true),
            ("a b c", "b c", true),
            ("a b c", "a", false),
            ("a b c", "c d e f", false),
            ("a b c", "", false),
            ("a b", "a", true),
            ("a b", "b", false),
            ("a b c d", "a d", true),
            ("a b c d", "b c", false),
            ("a", "b", false),
        ] {
            let (recorded, present) = (Members::parse(recorded), Members::parse(present));
            assert_eq!(present.is_majority_of(&recorded), goes_on, "{present:?} of {recorded:?}");
        }
    }

    #[test]
    fn of_two_parts_at_most_one_goes_on() {
        let names = ["a", "b", "c", "d", "e"];
        for size in 1..=names.len() {
            let recorded = Members::parse(&names[..size].join(" "));
            for part in 0..1_u32 << size {
                let half = |wanted| {
                    let members = (0..size).filter(|n| part >> n & 1 == wanted).map(|n| names[n].to_owned());
                    Members::new(members.collect())
                };
                assert!(
                    !(half(0).is_majority_of(&recorded) && half(1).is_majority_of(&recorded)),
                    "{part:b} of {size}"
                );
            }
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let members = Members::new(vec!["b".into(), "a".into(), "b".into()]);
        assert_eq!(members.recorded(), "a b");
        assert_eq!(Members::parse(&members.recorded()), members);
        assert_eq!(members.share_of(&Members::parse("a c d")), "1 of the 3 recorded members");
    }
}
