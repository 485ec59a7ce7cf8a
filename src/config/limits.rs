//! The settings of what clients may ask for at most.

use std::collections::BTreeMap;

use clap::Args;

/// What clients may ask for at most. An answer that refuses something for one of these names its variable.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits of requests")]
pub struct RequestLimits {
    /// Most bytes of a request's body.
    #[arg(long, env = "OPENCODE_MAX_BODY_BYTES", default_value_t = 16 * 1024 * 1024, global = true)]
    pub max_body_bytes: usize,
    /// Most bytes of the text of a message.
    #[arg(long, env = "OPENCODE_MAX_TEXT_BYTES", default_value_t = 1024 * 1024, global = true,
          value_parser = clap::value_parser!(u64).range(1..=2 * 1024 * 1024))]
    pub max_text_bytes: u64,
    /// Most bytes of the files that come with a message, together.
    #[arg(long, env = "OPENCODE_MAX_ATTACHMENT_BYTES", default_value_t = 10 * 1024 * 1024, global = true)]
    pub max_attachment_bytes: u64,
    /// Most bytes of a file that a client writes; a file of any size comes in through PUT /raw.
    #[arg(long, env = "OPENCODE_MAX_FILE_BYTES", default_value_t = 1024 * 1024 * 1024, global = true)]
    pub max_file_bytes: u64,
    /// Most bytes of a request's headers.
    #[arg(long, env = "OPENCODE_MAX_HEADER_BYTES", default_value_t = 16 * 1024, global = true,
          value_parser = clap::value_parser!(u32).range(8192..=1024 * 1024))]
    pub max_header_bytes: u32,
    /// Seconds that a client gets for its headers.
    #[arg(long, env = "OPENCODE_HEADER_SECONDS", default_value_t = 10, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub header_seconds: u64,
    /// Most connections at once; one more waits until another one ends. A listener that waits for one counts as well.
    #[arg(long, env = "OPENCODE_MAX_CONNECTIONS", default_value_t = 16_384, global = true,
          value_parser = clap::value_parser!(u32).range(2..))]
    pub max_connections: u32,
    /// Most requests at once on one HTTP/2 connection.
    #[arg(long, env = "OPENCODE_MAX_STREAMS_PER_CONNECTION", default_value_t = 256, global = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams_per_connection: u32,
    /// Most answers at once that are on their way to one token, streams with them; without tokens to everybody together.
    #[arg(long, env = "OPENCODE_MAX_STREAMS", default_value_t = 12_000, global = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams: u32,
    /// Most requests at once that have no answer yet, of all clients together.
    #[arg(long, env = "OPENCODE_MAX_REQUESTS", default_value_t = 2048, global = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_requests: u32,
    /// Most requests in a second of one token, without tokens of everybody together; a burst of ten times as many is let
    /// through. Default: no limit.
    #[arg(long, env = "OPENCODE_REQUESTS_PER_SECOND", global = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_per_second: Option<u32>,
}

impl RequestLimits {
    /// By their names in `GET /capabilities`.
    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        let all = [
            ("max_body_bytes", Some(self.max_body_bytes as u64)),
            ("max_text_bytes", Some(self.max_text_bytes)),
            ("max_attachment_bytes", Some(self.max_attachment_bytes)),
            ("max_file_bytes", Some(self.max_file_bytes)),
            ("max_header_bytes", Some(self.max_header_bytes.into())),
            ("header_s", Some(self.header_seconds)),
            ("max_connections", Some(self.max_connections.into())),
            ("max_streams_per_connection", Some(self.max_streams_per_connection.into())),
            ("max_streams", Some(self.max_streams.into())),
            ("max_requests", Some(self.max_requests.into())),
            ("requests_per_second", self.requests_per_second.map(u64::from)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
