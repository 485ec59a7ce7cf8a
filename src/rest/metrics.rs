//! `GET /metrics`: the server in figures, in Prometheus' text format, by hand: it is lines of names and numbers.

use std::fmt::{Display, Write};

use axum::{
    Extension,
    extract::State,
    http::{HeaderName, header},
};

use super::{
    error::{Problem, Result},
    extract::{NoParams, Query},
};
use crate::{
    domain::{COMMIT_CLASSES, Figures, OpenCode, Tally},
    requests::Counts,
};

/// The version of the format.
const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The server in figures, as Prometheus reads them.
///
/// Counters begin at 0 with each start. No label has an id, or anything else that a client has made up.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "Prometheus' text format, version 0.0.4", body = String, content_type = "text/plain"),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn metrics(
    State(domain): State<OpenCode>,
    Extension(counts): Extension<Counts>,
    _: Query<NoParams>,
) -> Result<([(HeaderName, &'static str); 1], String)> {
    Ok(([(header::CONTENT_TYPE, TYPE)], text(&domain.figures(), &counts)))
}

fn text(figures: &Figures, counts: &Counts) -> String {
    let mut page = Page::default();
    page.family("opencode_requests_total", "counter", "Requests that have ended, streams at their end.");
    for (kind, count) in counts.read() {
        let labels = [
            ("door", kind.door.as_str()),
            ("method", kind.method),
            ("route", &kind.route),
            ("code", &kind.code.text()),
        ];
        page.sample("", &labels, count);
    }
    let Figures { stored, streams, stream_lag, log_head, log_floor, permissions_waiting, processes, resident_bytes } =
        figures;
    for (name, help, value) in [
        ("opencode_streams_open", "Streams of events that are open.", streams),
        (
            "opencode_stream_lag_events",
            "Events that the stream which is furthest behind has still to look at.",
            stream_lag,
        ),
        ("opencode_log_head", "The number of the newest event.", log_head),
        ("opencode_log_floor", "The number of the oldest event that the log holds.", log_floor),
        ("opencode_permissions_waiting", "Permission requests that wait for an answer.", permissions_waiting),
        ("opencode_processes_running", "Commands of the agent that run, with all that they have started.", processes),
        ("process_resident_memory_bytes", "Memory of the server that is resident.", resident_bytes),
    ] {
        page.family(name, "gauge", help);
        page.sample("", &[], value);
    }
    page.stored(stored);
    page.0
}

/// The lines so far, and the name of the family that they are of.
#[derive(Default)]
struct Page(String, &'static str);

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        // Writing to a text cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Values of labels are names of ours; none has anything to escape but for what comes here by mistake.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(self.1);
        self.0.push_str(suffix);
        for (index, (name, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{name}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// What is counted where it is stored.
    fn stored(&mut self, stored: &Tally) {
        let Tally { turns, model_calls, tokens, cost, tool_calls, commits, commit_time } = stored;
        self.family("opencode_turns_total", "counter", "Turns that have ended, by why.");
        for (reason, count) in turns {
            self.sample("", &[("finish_reason", reason)], count);
        }
        self.family(
            "opencode_model_calls_total",
            "counter",
            "Calls of providers, attempts included, by what came of them.",
        );
        for ((provider, outcome), count) in model_calls {
            self.sample("", &[("provider", provider), ("outcome", outcome)], count);
        }
        let help =
            "Tokens of those calls; cache_read and cache_write are part of prompt, reasoning is part of completion.";
        self.family("opencode_tokens_total", "counter", help);
        for (class, count) in [
            ("prompt", tokens.prompt),
            ("completion", tokens.completion),
            ("cache_read", tokens.cache_read),
            ("cache_write", tokens.cache_write),
            ("reasoning", tokens.reasoning),
        ] {
            self.sample("", &[("class", class)], count);
        }
        self.family("opencode_cost_usd_total", "counter", "What those calls cost, as far as prices are known.");
        self.sample("", &[], cost.dollars());
        self.family("opencode_tool_calls_total", "counter", "Tool calls that have ended, by whether they failed.");
        for ((tool, failed), count) in tool_calls {
            self.sample("", &[("tool", tool), ("error", if *failed { "true" } else { "false" })], count);
        }
        self.family("opencode_store_commit_seconds", "histogram", "How long commits of the log took.");
        let ends = COMMIT_CLASSES.iter().map(|micros| (*micros as f64 / 1e6).to_string()).chain(["+Inf".to_owned()]);
        for (end, count) in ends.zip(commits) {
            self.sample("_bucket", &[("le", &end)], count);
        }
        self.sample("_sum", &[], commit_time.as_secs_f64());
        self.sample("_count", &[], commits.last().copied().unwrap_or_default());
    }
}
