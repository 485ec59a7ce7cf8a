//! What a client wants to get: `Accept` and `Prefer`.

use std::time::Duration;

use axum::http::{HeaderMap, header};

use crate::domain::{Code, Error};

/// What an operation that can stream answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Server-sent events.
    Stream,
    /// One JSON document.
    Json,
}

const STREAM: (&str, &str) = ("text", "event-stream");
const PATCH: (&str, &str) = ("text", "x-diff");
const JSON: (&str, &str) = ("application", "json");

/// JSON if it ranks above the stream, the stream if that is taken at all; without `Accept` the stream.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Wanted, Error> {
    let accept = Accept::of(headers);
    let (stream, json) = (accept.weight(STREAM), accept.weight(JSON));
    if json > stream {
        Ok(Wanted::Json)
    } else if stream > 0 {
        Ok(Wanted::Stream)
    } else {
        Err(Error::new(Code::NotAcceptable, "this answers text/event-stream or application/json; Accept takes neither"))
    }
}

/// Whether a patch ranks above JSON; without `Accept` it does not.
pub(super) fn wants_patch(headers: &HeaderMap) -> Result<bool, Error> {
    let accept = Accept::of(headers);
    let (patch, json) = (accept.weight(PATCH), accept.weight(JSON));
    if patch > json {
        Ok(true)
    } else if json > 0 {
        Ok(false)
    } else {
        Err(Error::new(Code::NotAcceptable, "this answers application/json or text/x-diff; Accept takes neither"))
    }
}

/// Refuses a request that does not take a stream where there is nothing else.
pub(super) fn stream_only(headers: &HeaderMap) -> Result<(), Error> {
    if Accept::of(headers).weight(STREAM) > 0 {
        return Ok(());
    }
    Err(Error::new(Code::NotAcceptable, "this answers text/event-stream, which Accept does not take"))
}

/// The ranges of `Accept` with their weights in thousandths.
struct Accept(Vec<(String, String, u32)>);

impl Accept {
    fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let ranges = lines.flat_map(|line| line.split(',')).filter_map(|range| {
            let mut fields = range.split(';').map(str::trim);
            let (kind, subtype) = fields.next()?.split_once('/')?;
            let weight = fields.find_map(|field| field.strip_prefix("q=").or_else(|| field.strip_prefix("Q=")));
            let weight = weight.and_then(|text| text.trim().parse::<f32>().ok()).unwrap_or(1.0).clamp(0.0, 1.0);
            Some((kind.to_ascii_lowercase(), subtype.to_ascii_lowercase(), (weight * 1000.0) as u32))
        });
        Self(ranges.collect())
    }

    /// The weight of a type: that of the most exact range that takes it. Without any range all is taken.
    fn weight(&self, (kind, subtype): (&str, &str)) -> u32 {
        if self.0.is_empty() {
            return 1000;
        }
        let of = |wanted: (&str, &str)| {
            self.0.iter().find(|(kind, subtype, _)| (kind.as_str(), subtype.as_str()) == wanted).map(|range| range.2)
        };
        of((kind, subtype)).or_else(|| of((kind, "*"))).or_else(|| of(("*", "*"))).unwrap_or(0)
    }
}

/// What `Prefer` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Preferences {
    /// Answer at once, without waiting for the end.
    pub(super) respond_async: bool,
    /// Wait at most this long for the end.
    pub(super) wait: Option<Duration>,
}

/// Longest wait that is honoured.
const MAX_WAIT: u64 = 300;

/// Reads `Prefer`; what it says beside the two is ignored, as the standard has it.
pub(super) fn preferences(headers: &HeaderMap) -> Preferences {
    let lines = headers.get_all("prefer").iter().filter_map(|line| line.to_str().ok());
    let mut found = Preferences::default();
    for wish in lines.flat_map(|line| line.split([',', ';'])).map(str::trim) {
        if wish.eq_ignore_ascii_case("respond-async") {
            found.respond_async = true;
        } else if let Some(seconds) = wish.strip_prefix("wait=").and_then(|text| text.trim_matches('"').parse().ok()) {
            found.wait = Some(Duration::from_secs(u64::min(seconds, MAX_WAIT)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a header value"))])
    }

    #[test]
    fn json_only_where_it_ranks_above_the_stream() {
        assert_eq!(wanted(&HeaderMap::new()).ok(), Some(Wanted::Stream));
        for stream in
            ["*/*", "text/event-stream", "text/*", "application/json, text/event-stream", "application/json;q=0.5, */*"]
        {
            assert_eq!(wanted(&headers(stream)).ok(), Some(Wanted::Stream), "{stream}");
        }
        for json in [
            "application/json",
            "application/*",
            "application/json, text/event-stream;q=0.9",
            "application/json, */*;q=0.8",
        ] {
            assert_eq!(wanted(&headers(json)).ok(), Some(Wanted::Json), "{json}");
        }
        for neither in ["text/html", "image/*", "text/event-stream;q=0"] {
            assert!(wanted(&headers(neither)).is_err(), "{neither}");
        }
    }
}
