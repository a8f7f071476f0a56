//! The report of an audit as one self-contained HTML page: verdict first, no script, nothing from elsewhere.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::plot::{bars, ranges, share, views};
use super::{AuditReport, Level, Statistics, Summary};
use crate::types::{Federation, TimestampMs};

/// How many rows of a long table are shown.
const ROWS: usize = 200;

const STYLE: &str = include_str!("page.css");

/// Text that may stand between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A time for people, UTC.
pub(super) fn when(at: TimestampMs) -> String {
    // The formatter covers the years that have four digits.
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(at)).filter(|_| at < 253_402_300_800_000);
    time.map_or_else(|| format!("{at} ms"), |time| humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', " UTC"))
}

/// A number with narrow spaces between thousands, at which no line breaks.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// As a sentence begins.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

impl Summary {
    /// The page.
    #[must_use]
    pub fn to_html(&self, federation: &Federation) -> String {
        let mut page = String::new();
        let title = format!("Audit of {}", federation.genesis().name);
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
             <title>{0}</title><style>{STYLE}</style></head><body><main><h1>{0}</h1>",
            escape(&title)
        );
        self.verdict(&mut page);
        self.facts(&mut page, federation);
        self.convicted_members(&mut page);
        self.finding_table(&mut page);
        list(&mut page, "Not checked", &self.not_checked, "Everything was checked, in every target.");
        if !self.made_good.is_empty() {
            list(&mut page, "Made good by a repair", &self.made_good, "");
        }
        self.targets.iter().for_each(|target| target_section(&mut page, target));
        page.push_str("</main></body></html>\n");
        page
    }

    fn verdict(&self, page: &mut String) {
        let (class, word, sentence) = match self.exit_code {
            0 => ("good", "Clean", "Nothing in the histories that were read breaks a rule."),
            1 => ("bad", "Damaged", "Something is not what the federation committed. The findings below say what, where, and what to do."),
            2 => ("bad", "Conviction", "Somebody signed what no correct replica signs, or a history is not the one that was proved before."),
            _ => ("open", "Incomplete", "What was read is clean, but the histories were not read to their ends."),
        };
        let count = match self.bad {
            0 => String::new(),
            1 => " One finding.".to_owned(),
            n => format!(" {} findings.", number(n)),
        };
        let _ = write!(page, "<section class=\"verdict {class}\"><strong>{word}</strong><p>{sentence}{count}</p></section>");
    }

    fn facts(&self, page: &mut String, federation: &Federation) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let n = federation.size();
        let levels: Vec<&str> = Level::ALL.into_iter().filter(|level| *level <= self.level).map(Level::name).collect();
        let rows = [
            ("Federation", format!("{} <code>{}</code>", escape(&federation.genesis().name), self.federation_id)),
            ("Members", format!("{n}, of which {} sign each batch and {} may fail", federation.quorum(), federation.weak_quorum() - 1)),
            ("Checked", levels.join(", ")),
            ("Entries", format!("{} in {} batches", number(self.entries), number(self.batches))),
            ("Signatures", number(self.signatures)),
            ("Common history", format!("up to sequence {}, log root <code>{}</code>", number(self.head), self.log_root)),
            ("Time", format!("{}, {:.1} s, {} entries a second", when(now), self.seconds, number(self.entries_per_second))),
            ("Program", format!("exofed {}", env!("CARGO_PKG_VERSION"))),
        ];
        page.push_str("<section><table class=\"facts\">");
        for (name, value) in rows {
            let _ = write!(page, "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>");
        }
        page.push_str("</table></section>");
    }

    fn convicted_members(&self, page: &mut String) {
        if self.convicted.is_empty() {
            return;
        }
        page.push_str("<section><h2>Convicted members</h2><p>Each signed two statements that no correct replica signs both. This proves that the key was \
             misused, not by whom or why. The records are in the JSON form of this report; each verifies alone.</p><table><tr><th>Member</th><th>Rule</th>\
             <th>View</th><th>Slot</th><th>Evidence</th></tr>");
        for found in self.convicted.iter().take(ROWS) {
            let c = &found.conviction;
            let member = escape(&c.member.to_string());
            let _ = write!(page, "<tr><td>{member}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>", c.rule, c.view, c.slot, c.id);
        }
        page.push_str("</table></section>");
    }

    fn finding_table(&self, page: &mut String) {
        page.push_str("<section><h2>Findings</h2>");
        if self.findings.is_empty() {
            page.push_str("<p>None.</p></section>");
            return;
        }
        page.push_str("<div class=\"wide\"><table><tr><th>Place</th><th>Rule</th><th>Expected and found</th><th>What it means, what to do</th></tr>");
        for finding in self.findings.iter().take(ROWS) {
            let at =
                if finding.slot > 0 { format!("slot {}, sequence {}<br>", number(finding.slot), number(finding.sequence)) } else { String::new() };
            let [place, rule, expected, found] = [&finding.place, &finding.rule, &finding.expected, &finding.found].map(|text| escape(text));
            let _ = write!(
                page,
                "<tr><td>{at}<small>{place}</small></td><td>{rule}</td><td>expected <code>{expected}</code><br>found <code>{found}</code></td>\
                 <td>{}. <em>{}.</em></td></tr>",
                escape(&capital(&finding.meaning)),
                escape(&capital(&finding.remedy))
            );
        }
        page.push_str("</table></div>");
        if self.bad > ROWS as u64 {
            let _ = write!(page, "<p>And {} more.</p>", number(self.bad - ROWS as u64));
        }
        page.push_str("</section>");
    }
}

fn list(page: &mut String, title: &str, items: &[String], empty: &str) {
    let _ = write!(page, "<section><h2>{title}</h2>");
    if items.is_empty() {
        let _ = write!(page, "<p>{empty}</p>");
    } else {
        page.push_str("<ul>");
        for item in items.iter().take(ROWS) {
            let _ = write!(page, "<li>{}</li>", escape(item));
        }
        page.push_str("</ul>");
    }
    page.push_str("</section>");
}

fn target_section(page: &mut String, target: &AuditReport) {
    let state = if target.clean { "clean" } else { "not clean" };
    let _ = write!(
        page,
        "<section><h2>{}</h2><p>{state}: {} entries in {} batches, up to slot {} and sequence {}, log root <code>{}</code>.",
        escape(&target.target),
        number(target.entries),
        number(target.batches),
        number(target.slot),
        number(target.head),
        target.log_root
    );
    if target.old_proofs_held > 0 {
        let _ = write!(page, " {} of the proofs handed out earlier are in it.", number(target.old_proofs_held));
    }
    page.push_str("</p>");
    if !target.bad_ranges.is_empty() {
        figure(page, "Sequence numbers with findings", &ranges(&target.bad_ranges, target.head));
    }
    let statistics = &target.statistics;
    if target.batches > 0 {
        figure(page, "Updates over time", &bars(&statistics.timeline));
        figure(page, "Views, by slot", &views(&statistics.views, target.slot));
        participation(page, target);
        time_table(page, statistics);
    }
    page.push_str("</section>");
}

fn figure(page: &mut String, title: &str, plot: &str) {
    let _ = write!(page, "<figure><figcaption>{title}</figcaption>{plot}</figure>");
}

fn participation(page: &mut String, target: &AuditReport) {
    let Statistics { replicas, authors, signers, .. } = &target.statistics;
    page.push_str("<div class=\"columns\"><div><h3>Replicas</h3><table><tr><th>Replica</th><th colspan=\"2\">Commits in certificates</th></tr>");
    for replica in replicas {
        let peer = escape(&replica.peer.to_string());
        let _ =
            write!(page, "<tr><td>{peer}</td><td class=\"n\">{}</td><td>{}</td></tr>", number(replica.signed), share(replica.signed, target.batches));
    }
    page.push_str("</table><p><small>A certificate holds a quorum, not everyone who voted: absence is no accusation.</small></p></div>");
    page.push_str("<div><h3>Signers per batch</h3><table><tr><th>Signers</th><th colspan=\"2\">Batches</th></tr>");
    for (count, batches) in signers {
        let _ = write!(page, "<tr><td>{count}</td><td class=\"n\">{}</td><td>{}</td></tr>", number(*batches), share(*batches, target.batches));
    }
    page.push_str("</table></div><div><h3>Authors</h3><table><tr><th>Author</th><th>Updates</th><th>Submissions</th><th>Bytes</th></tr>");
    for author in authors.iter().take(ROWS) {
        let name = escape(&author.name);
        let [updates, submissions, bytes] = [author.updates, author.submissions, author.bytes].map(number);
        let _ = write!(page, "<tr><td>{name}</td><td class=\"n\">{updates}</td><td class=\"n\">{submissions}</td><td class=\"n\">{bytes}</td></tr>");
    }
    page.push_str("</table></div></div>");
}

fn time_table(page: &mut String, statistics: &Statistics) {
    let Statistics { first_timestamp, last_timestamp, views, view_changes, pauses, .. } = statistics;
    page.push_str("<div class=\"columns\"><div><h3>Time</h3><table class=\"facts\">");
    let rows = [("First batch", *first_timestamp), ("Last batch", *last_timestamp)];
    for (name, at) in rows {
        let _ = write!(page, "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", at.map_or_else(String::new, when));
    }
    page.push_str("</table><p><small>Times are the leaders' claims, which a quorum found fresh.</small></p></div>");
    page.push_str("<div><h3>Longest times without a commit</h3><table><tr><th>Behind slot</th><th>From</th><th>Seconds</th></tr>");
    for pause in pauses {
        let (slot, from, seconds) = (number(pause.after_slot), when(pause.from), pause.millis as f64 / 1_000.0);
        let _ = write!(page, "<tr><td class=\"n\">{slot}</td><td>{from}</td><td class=\"n\">{seconds:.1}</td></tr>");
    }
    page.push_str("</table></div>");
    let _ =
        write!(page, "<div><h3>View changes: {}</h3><table><tr><th>View</th><th>Leader</th><th>Slots</th><th>Why</th></tr>", number(*view_changes));
    for span in views.iter().take(ROWS) {
        let leader = span.leader.as_ref().map_or_else(String::new, |peer| escape(&peer.to_string()));
        let why = span.reason.as_deref().map_or_else(String::new, escape);
        let (view, first, last) = (number(span.view), number(span.first_slot), number(span.last_slot));
        let _ = write!(page, "<tr><td class=\"n\">{view}</td><td>{leader}</td><td class=\"n\">{first} to {last}</td><td>{why}</td></tr>");
    }
    page.push_str("</table></div></div>");
}
