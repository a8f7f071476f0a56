//! Plots of the report, as SVG.

use std::fmt::Write as _;

use super::page::{escape, number, when};
use super::{BadRange, Timeline, ViewSpan};

const WIDTH: f64 = 960.0;

/// Updates over time.
pub(super) fn bars(timeline: &Timeline) -> String {
    const HEIGHT: f64 = 160.0;
    let count = timeline.updates.len().max(1);
    let most = timeline.updates.iter().copied().max().unwrap_or(0).max(1);
    let width = WIDTH / count as f64;
    let seconds = timeline.step_millis as f64 / 1_000.0;
    let unit = format!("{} updates in {seconds} s at most", number(most));
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{unit}\">", HEIGHT + 22.0);
    let _ = write!(out, "<line class=\"axis\" x1=\"0\" y1=\"{HEIGHT}\" x2=\"{WIDTH}\" y2=\"{HEIGHT}\"/>");
    for (at, updates) in timeline.updates.iter().enumerate().filter(|(_, updates)| **updates > 0) {
        let height = (*updates as f64 / most as f64 * (HEIGHT - 16.0)).max(1.0);
        let (x, y, gap) = (at as f64 * width, HEIGHT - height, (width * 0.15).min(2.0));
        let from = when(timeline.from.saturating_add(timeline.step_millis.saturating_mul(at as u64)));
        let _ = write!(
            out,
            "<rect class=\"bar\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{} updates from {from}</title></rect>",
            width - gap,
            number(*updates)
        );
    }
    let end = when(timeline.from.saturating_add(timeline.step_millis.saturating_mul(count as u64)));
    let _ = write!(out, "<text x=\"0\" y=\"11\">{unit}</text><text x=\"0\" y=\"{}\">{}</text>", HEIGHT + 16.0, when(timeline.from));
    let _ = write!(out, "<text x=\"{WIDTH}\" y=\"{}\" text-anchor=\"end\">{end}</text></svg>", HEIGHT + 16.0);
    out
}

/// A strip of everything from 1 to `last`, in which parts are drawn.
fn strip(last: u64, label: &str, parts: impl Iterator<Item = (u64, u64, String, String)>) -> String {
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} 44\" role=\"img\" aria-label=\"{}\"><rect class=\"track\" width=\"{WIDTH}\" height=\"22\"/>",
        escape(label)
    );
    let scale = WIDTH / last.max(1) as f64;
    for (from, to, class, title) in parts {
        let x = (from.saturating_sub(1) as f64 * scale).min(WIDTH - 2.0);
        let width = ((to.saturating_sub(from) as f64 + 1.0) * scale).clamp(2.0, WIDTH - x);
        let _ = write!(out, "<rect class=\"{class}\" x=\"{x:.1}\" width=\"{width:.1}\" height=\"22\"><title>{}</title></rect>", escape(&title));
    }
    let _ = write!(out, "<text x=\"0\" y=\"38\">1</text><text x=\"{WIDTH}\" y=\"38\" text-anchor=\"end\">{}</text></svg>", number(last));
    out
}

/// Sequence numbers with findings.
pub(super) fn ranges(bad: &[BadRange], head: u64) -> String {
    let last = bad.iter().map(|range| range.to).chain([head]).max().unwrap_or(1);
    let parts = bad.iter().map(|range| {
        let rules: Vec<&str> = range.rules.iter().map(String::as_str).collect();
        (range.from, range.to, "hole".to_owned(), format!("{} to {}: {}", range.from, range.to, rules.join(", ")))
    });
    strip(last, "sequence numbers with findings", parts)
}

/// Who led, by slot.
pub(super) fn views(spans: &[ViewSpan], last: u64) -> String {
    let parts = spans.iter().map(|span| {
        let leader = span.leader.as_ref().map_or_else(String::new, |peer| format!(", led by {peer}"));
        (
            span.first_slot,
            span.last_slot,
            format!("view v{}", span.view % 6),
            format!("view {}{leader}: slots {} to {}", span.view, span.first_slot, span.last_slot),
        )
    });
    strip(last, "views by slot", parts)
}

/// A part of a whole, as a small bar.
pub(super) fn share(part: u64, whole: u64) -> String {
    let percent = part as f64 / whole.max(1) as f64 * 100.0;
    format!(
        "<svg class=\"share\" viewBox=\"0 0 100 10\" role=\"img\" aria-label=\"{percent:.1} %\"><rect class=\"track\" width=\"100\" height=\"10\"/>\
         <rect class=\"bar\" width=\"{percent:.1}\" height=\"10\"/></svg> {percent:.1} %"
    )
}
