//! The arithmetic of tickets, and what errors mean.

use super::*;

#[test]
fn a_column_ends_where_its_type_does() {
    for (column, last) in [
        ("int(11)", Some(2_147_483_647)),
        ("int", Some(2_147_483_647)),
        ("int(10) unsigned", Some(4_294_967_295)),
        ("bigint(20)", Some(i64::MAX.cast_unsigned())),
        ("bigint unsigned", Some(u64::MAX)),
        ("tinyint(4)", Some(127)),
        ("int(11) without AUTO_INCREMENT", None),
        ("varchar(36)", None),
        ("", None),
    ] {
        assert_eq!(largest(column), last, "{column}");
    }
}

#[test]
fn a_ticket_is_the_seeds_arithmetic() {
    let block = |ticket, step| ticket_block(ticket, step).map(|block| (block.start(), block.last()));
    assert_eq!(block(1, 100), Some((101, 200)));
    assert_eq!(block(2, 100), Some((201, 300)));
    assert_eq!(block(7, 1), Some((8, 8)));
    assert_eq!(block(0, 100), Some((1, 100)));
    assert_eq!(block(DEFAULT_MAX_ID - 1, 1), Some((DEFAULT_MAX_ID, DEFAULT_MAX_ID)));
    assert_eq!(block(DEFAULT_MAX_ID, 1), None);
    assert_eq!(block(u64::MAX, 4_294_967_295), None);
    for step in [1, 7, 100, 4_294_967_295] {
        let last = last_legal_ticket(u64::MAX, step);
        assert!(ticket_block(last, step).is_some() && ticket_block(last + 1, step).is_none(), "step {step}");
    }
    assert_eq!(last_legal_ticket(2_147_483_647, 100), 2_147_483_647);
}

#[test]
fn a_row_tells_whose_it_is() {
    let node = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".parse().unwrap();
    assert_eq!(row_uuid(node, 0xabc), "6ba7b810-9dad-11d1-80b4-000000000abc");
    assert_eq!(row_uuid(node, COUNTER_MASK), "6ba7b810-9dad-11d1-80b4-ffffffffffff");
}

#[test]
fn only_a_duplicate_at_the_columns_end_means_the_end() {
    let error = |code, message: &str| mysql_async::ServerError { code, message: message.into(), state: String::new() };
    let last = 2_147_483_647;
    assert!(is_past_the_end(&error(1062, "Duplicate entry '2147483647' for key 'generator_table.PRIMARY'"), last));
    assert!(!is_past_the_end(&error(1062, "Duplicate entry '6ba7b810-...' for key 'stub_UNIQUE'"), last));
    assert!(!is_past_the_end(&error(1062, "Duplicate entry '7' for key 'PRIMARY'"), last));
    assert!(is_past_the_end(&error(167, "Out of range value for column 'id' at row 1"), last));
}
