//! What holds for every `node.json` that is accepted.

use seqsvr::name::SequenceName;
use seqsvr::node::Node;
use serde_json::Value;

/// `input` is the file.
pub fn check(input: &[u8]) {
    let Ok(node) = Node::from_json(input) else { return };
    let json = node.to_json().expect("it can be written");
    let again = Node::from_json(&json).expect("what was written can be read");
    assert_eq!(again.id(), node.id());
    assert_eq!(again.to_json().expect("it can be written"), json);

    let written: Value = serde_json::from_slice(&json).expect("JSON");
    // What other keys have is passed over, and may be what is not even JSON's text.
    if let Ok(typed) = serde_json::from_slice::<Value>(input) {
        for key in ["store_id", "is_adopting", "leased_to"] {
            let typed = typed.get(key).filter(|typed| !typed.is_null() || key == "store_id");
            assert!(typed.is_none_or(|typed| *typed == written[key]), "{key} was read as another value");
        }
        if typed.get("leased_to").is_none_or(Value::is_null) {
            // It is of an early build, whose marks are exact.
            assert!(typed.get("high_water_marks").is_none_or(|typed| *typed == written["high_water_marks"]));
            assert_eq!(written["leased_to"], written["high_water_marks"]);
        }
    }
    let marks = |key: &str| written[key].as_object().expect("a map");
    for (name, mark) in marks("leased_to") {
        let mark = mark.as_u64().expect("a whole number");
        assert!(marks("high_water_marks")[name].as_u64() >= Some(mark), "what is written ahead is never behind");
        check_mark(&node, name, mark);
    }
    check_store(&node, written["store_id"].as_str(), written["is_adopting"] == true);
}

/// A mark only rises, but for what is given back from just below it.
fn check_mark(node: &Node, name: &str, mark: u64) {
    let sequence: SequenceName = name.parse().expect("a name that is remembered is a name");
    assert_eq!(node.high_water_mark(name), mark);
    for end in [0, mark.saturating_sub(1), mark] {
        node.raise_high_water_mark(&sequence, end);
        assert!(end == mark || !node.lower_high_water_mark(name, end, 0));
        assert_eq!(node.high_water_mark(name), mark, "raised to {end}");
    }
    node.raise_high_water_mark(&sequence, mark.saturating_add(1));
    assert_eq!(node.high_water_mark(name), mark.saturating_add(1));
}

/// The store that is remembered is accepted and keeps its marks; another one only while one is being adopted.
fn check_store(node: &Node, store_id: Option<&str>, is_adopting: bool) {
    let Some(store_id) = store_id else {
        assert_eq!(node.check_store(Some("any")), Ok(()));
        return;
    };
    assert_eq!(node.check_store(Some(store_id)), Ok(()));
    assert_eq!(node.check_store(Some(&format!("{store_id}x"))).is_ok(), is_adopting);
    assert_eq!(node.check_store(None).is_ok(), is_adopting);
    let marks = |node: &Node| {
        let json: Value = serde_json::from_slice(&node.to_json().expect("it can be written")).expect("JSON");
        (json["high_water_marks"].clone(), json["leased_to"].clone())
    };
    let before = marks(node);
    node.remember_store(store_id);
    assert_eq!(marks(node), before, "the same store's marks stay");
    assert!(node.check_store(None).is_err(), "adopting is over");
}
