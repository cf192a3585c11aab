//! The documents hold together: links lead somewhere, and the Chinese README says what the English one does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders that have documents.
const FOLDERS: [&str; 4] = ["", "benches", "docs", "grafana"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents() -> Vec<PathBuf> {
    let entries = FOLDERS.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|name| name == "md"))
        .collect()
}

/// A document's text, and its fenced code.
fn parts(document: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut text, mut code, mut is_code) = (Vec::new(), Vec::new(), false);
    for line in document.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        if is_code || is_fence { code.push(line) } else { text.push(line) }
    }
    (text, code)
}

/// What links lead to: `](here)`.
fn links<'a>(text: &[&'a str]) -> Vec<&'a str> {
    text.iter().flat_map(|line| line.split("](").skip(1)).filter_map(|rest| Some(rest.split_once(')')?.0)).collect()
}

/// The anchors of headings, as GitHub makes them.
fn anchors(text: &[&str]) -> BTreeSet<String> {
    let headings = text.iter().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(anchor).collect()
}

/// The links of a document that lead nowhere.
fn dead(document: &Path) -> Vec<String> {
    let content = read(document);
    let leads = |link: &str| {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let to = if path.is_empty() { document.to_owned() } else { document.with_file_name(path) };
        to.exists() && (anchor.is_empty() || anchors(&parts(&read(&to)).0).contains(anchor))
    };
    let links = links(&parts(&content).0);
    links.into_iter().filter(|link| !link.contains("://") && !leads(link)).map(str::to_owned).collect()
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    assert!(documents.len() > 10, "{documents:?}");
    for document in documents {
        assert_eq!(dead(&document), [""; 0], "{}", document.display());
    }
}

#[test]
fn a_dead_link_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("a.md");
    let links = "[1](#a-b-c) [2](#b) [3](b.md#d) [4](b.md#e) [5](c.md) [6](https://a/b)\n```\n[7](code.md)\n```\n";
    fs::write(&document, format!("# A `b`, c\n{links}")).unwrap();
    fs::write(folder.path().join("b.md"), "## D\n").unwrap();
    assert_eq!(dead(&document), ["#b", "b.md#e", "c.md"]);
}

#[test]
fn the_readmes_are_in_step() {
    let [english, chinese] = ["README.md", "README-zh_CN.md"].map(|name| read(&root().join(name)));
    let ((english, code), (chinese, same_code)) = (parts(&english), parts(&chinese));
    assert_eq!(code, same_code);
    let depths = |text: &[&str]| -> Vec<usize> {
        let headings = text.iter().filter(|line| line.starts_with('#'));
        headings.map(|line| line.chars().take_while(|c| *c == '#').count()).collect()
    };
    assert_eq!(depths(&english), depths(&chinese), "sections");
    // What no language changes of a table's row: what is code in its first two columns.
    let rows = |text: &[&str]| -> Vec<Vec<String>> {
        let rows = text.iter().filter(|line| line.starts_with("| "));
        let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        rows.map(|line| line.split(" | ").take(2).flat_map(code).collect()).collect()
    };
    assert_eq!(rows(&english), rows(&chinese), "rows of tables");
    let outside = |text: &[&str]| -> BTreeSet<String> {
        let links = links(text).into_iter().filter(|link| !link.starts_with('#') && !link.starts_with("README"));
        links.map(str::to_owned).collect()
    };
    assert_eq!(outside(&english), outside(&chinese), "links");
}
