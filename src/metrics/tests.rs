//! What a scrape has, and under which labels.

use super::*;

#[test]
fn a_scrape_has_what_was_counted_and_explains_it() {
    let metrics = Metrics::new();
    let default = metrics.label(&SequenceName::default());
    let (one, two) = (metrics.worker(), metrics.worker());
    one.count(Route::New, 200);
    two.count(Route::New, 200);
    two.count(Route::Other, 418);
    metrics.lease(&default, "ok", Duration::from_millis(3), 100);
    metrics.waited(&default, Duration::from_millis(3));
    let sample = SequenceSample {
        label: default,
        handed_out: 40,
        held: 60,
        runway_seconds: 12.5,
        block_size: 100,
        waiters: 0,
        capacity_used: 0.25,
        high_water_mark: 201,
    };
    metrics.render([sample.clone()], false);
    let text = String::from_utf8(metrics.render([sample], true)).unwrap();
    for line in [
        "seqsvr_ids_total{sequence=\"default\"} 40",
        "seqsvr_ids_held{sequence=\"default\"} 60",
        "seqsvr_runway_seconds{sequence=\"default\"} 12.5",
        "seqsvr_capacity_used_ratio{sequence=\"default\"} 0.25",
        "seqsvr_http_responses_total{route=\"/new\",status=\"200\"} 2",
        "seqsvr_http_responses_total{route=\"/new\",status=\"503\"} 0",
        "seqsvr_http_responses_total{route=\"other\",status=\"other\"} 1",
        "seqsvr_wait_duration_seconds_bucket{sequence=\"default\",le=\"0.0025\"} 0",
        "seqsvr_wait_duration_seconds_bucket{sequence=\"default\",le=\"0.005\"} 1",
        "seqsvr_leases_total{outcome=\"ok\",sequence=\"default\"} 1",
        "seqsvr_leases_total{outcome=\"panic\",sequence=\"default\"} 0",
        "seqsvr_ready 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }
    for name in ["seqsvr_build_info", "seqsvr_lease_duration_seconds_bucket", "process_resident_memory_bytes"] {
        assert!(text.contains(name), "no {name} in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(name.starts_with("seqsvr_") || name.starts_with("process_"), "{line}");
    }
}

#[test]
fn only_so_many_sequences_have_a_label_of_their_own() {
    let metrics = Metrics::new();
    let labels: Vec<Label> = (0..MOST_LABELS + 50).map(|n| metrics.label(&format!("s{n}").parse().unwrap())).collect();
    let sample = |label: &Label| SequenceSample {
        label: label.clone(),
        handed_out: 2,
        held: 3,
        runway_seconds: 1.0,
        block_size: 100,
        waiters: 0,
        capacity_used: 0.0,
        high_water_mark: 1,
    };
    metrics.render(labels.iter().map(sample), true);
    let text = String::from_utf8(metrics.render(labels.iter().map(sample), true)).unwrap();
    let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(series("seqsvr_ids_total{"), MOST_LABELS + 1);
    assert!(text.contains("seqsvr_ids_total{sequence=\"(others)\"} 100\n"), "{text}");
    assert!(text.contains("seqsvr_ids_held{sequence=\"(others)\"} 150\n"), "{text}");
}
