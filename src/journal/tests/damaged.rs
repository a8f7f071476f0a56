//! What is written behind damage is found again.

use super::*;

/// A number that an older segment holds must not be given again: whoever reads the segments in order would take the new record for damage.
#[test]
fn a_damaged_newest_segment_and_damaged_votes_repeat_no_record_number() {
    let (_root, dir) = fresh();
    let (mut journal, _) = open(&dir);
    for number in 0..6 {
        append(&mut journal, &segment(2, number, vec![1; 4_500]));
        append(&mut journal, &vote(3, vec![2; 50]));
        journal.sync().unwrap();
    }
    drop(journal);
    let newest = segment_path(&dir, 2);
    fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(2 * PAGE as u64).unwrap();
    let votes = dir.join("votes.1");
    let file = fs::OpenOptions::new().write(true).open(&votes).unwrap();
    file.write_all_at(&[1; 7 * PAGE], PAGE as u64).unwrap();

    let (mut journal, report) = open(&dir);
    assert!(report.segments_damaged && report.votes_damaged, "{report:?}");
    append(&mut journal, &segment(2, 9, b"behind".to_vec()));
    journal.sync().unwrap();
    drop(journal);
    let (mut journal, _) = open(&dir);
    assert!(journal.tail(None).filter_map(Result::ok).any(|frame| frame.payload == b"behind"), "it is gone");
}
