//! `seqsvr doctor`: how findings are shown to people and to programs, and the exit code that they add up to.

use std::fmt::Write;

use serde_json::json;

use crate::store::finding::{Finding, Pruned, Verdict, some_of};

/// The worst of all; ok where nothing was found.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

/// The exit code of `worst`: 0, 1 for warnings, 2 for failures; 0 also for what is better than `fail_on`.
pub fn exit_code(worst: Verdict, fail_on: Verdict) -> u8 {
    match worst {
        _ if worst < fail_on => 0,
        Verdict::Ok | Verdict::Info => 0,
        Verdict::Warn => 1,
        Verdict::Fail => 2,
    }
}

/// A line for each finding, and one for what to do about it.
pub fn as_text(store: &str, findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut text = format!("{store}\n");
    for Finding { what, found, verdict, advice } in findings {
        let shown = match verdict {
            Verdict::Ok => "ok",
            Verdict::Info => "info",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        // A text of another program's may have lines of its own.
        let _ = writeln!(text, "{shown:<4}  {what:<width$}  {}", on_one_line(found));
        if let Some(advice) = advice {
            let _ = writeln!(text, "{:<4}  {:<width$}  -> {}", "", "", on_one_line(advice));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let ok = count(Verdict::Ok) + count(Verdict::Info);
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (warnings, failures) = (counted(count(Verdict::Warn), "warning"), counted(count(Verdict::Fail), "failure"));
    let _ = writeln!(text, "{ok} ok, {warnings}, {failures}");
    text
}

fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// One object: `store`, `verdict` (the worst: `ok`, `info`, `warn` or `fail`), and `findings`, an array of objects with `what`,
/// `found`, `verdict` and `advice` (null where nothing is to be done).
pub fn as_json(store: &str, findings: &[Finding]) -> String {
    let value = json!({ "store": store, "verdict": worst(findings), "findings": findings });
    format!("{value:#}\n")
}

/// What was, or in a dry run would be, deleted.
pub fn pruned_as_text(pruned: &Pruned, dry_run: bool) -> String {
    let Some(kept) = pruned.kept else {
        return "generator_table has no rows here: nothing is to be deleted\n".to_owned();
    };
    let did = if dry_run { "would delete" } else { "deleted" };
    let mut text = format!(
        "{did} {} rows that are older than the last 1000 tickets; the highest row, {kept}, stays\n",
        pruned.rows
    );
    for (node, rows) in &pruned.nodes {
        let _ = writeln!(text, "  {node}...  {rows}");
    }
    let named: u64 = pruned.nodes.iter().map(|(_, rows)| rows).sum();
    if named + pruned.foreign_rows < pruned.rows {
        let _ = writeln!(text, "  of others  {}", pruned.rows - named - pruned.foreign_rows);
    }
    if pruned.foreign_rows > 0 {
        let _ = writeln!(
            text,
            "of these {} are not of seqsvr: {}; a Go server that leases puts its row back",
            pruned.foreign_rows,
            some_of(&pruned.foreign)
        );
    }
    if dry_run && pruned.rows > 0 {
        text += "to delete them, add --yes\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(what: &str, verdict: Verdict, advice: Option<&str>) -> Finding {
        Finding { what: what.into(), found: "as\n  it is".into(), verdict, advice: advice.map(Into::into) }
    }

    #[test]
    fn the_worst_is_the_exit_code() {
        let (ok, warn) = (finding("a", Verdict::Ok, None), finding("b", Verdict::Warn, Some("look")));
        let fail = finding("c", Verdict::Fail, Some("mend"));
        let info = finding("d", Verdict::Info, Some("grant"));
        for (findings, code) in [
            (vec![], 0),
            (vec![&ok], 0),
            (vec![&ok, &info], 0),
            (vec![&ok, &warn, &ok], 1),
            (vec![&fail, &warn], 2),
            (vec![&warn, &fail], 2),
        ] {
            let findings: Vec<Finding> = findings.into_iter().cloned().collect();
            assert_eq!(exit_code(worst(&findings), Verdict::Warn), code);
            assert_eq!(exit_code(worst(&findings), Verdict::Fail), if code == 1 { 0 } else { code });
        }
    }

    #[test]
    fn people_and_programs_see_the_same_rows() {
        let findings = [finding("state", Verdict::Ok, None), finding("sync_binlog", Verdict::Fail, Some("set\nit"))];
        assert_eq!(
            as_text("MySQL at x", &findings),
            "MySQL at x\n\
             ok    state        as it is\n\
             FAIL  sync_binlog  as it is\n                   -> set it\n\
             1 ok, 0 warnings, 1 failure\n"
        );
        let json: serde_json::Value = serde_json::from_str(&as_json("MySQL at x", &findings)).unwrap();
        assert_eq!(json["verdict"], "fail");
        assert_eq!(json["findings"][0], json!({"what":"state","found":"as\n  it is","verdict":"ok","advice":null}));
        assert_eq!(json["findings"][1]["advice"], "set\nit");
    }

    #[test]
    fn what_is_deleted_is_told_by_node() {
        let pruned = Pruned {
            rows: 7,
            nodes: vec![("abc-".into(), 3)],
            foreign_rows: 2,
            foreign: vec!["go-1".into(), "go-2".into()],
            kept: Some(9_000),
        };
        let text = pruned_as_text(&pruned, true);
        assert!(text.starts_with("would delete 7 rows") && text.contains("9000, stays"), "{text}");
        assert!(text.contains("  abc-...  3\n  of others  2\n") && text.ends_with("add --yes\n"), "{text}");
        assert!(text.contains("of these 2 are not of seqsvr: go-1, go-2; a Go server"), "{text}");
        assert!(!pruned_as_text(&pruned, false).contains("--yes"));
        assert!(pruned_as_text(&Pruned::default(), false).contains("nothing is to be deleted"));
    }
}
