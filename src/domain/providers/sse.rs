//! The one reader of event streams: sends the request, checks what came back, and feeds events to a dialect.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::{RequestBuilder, Response};
use secrecy::SecretString;
use sse_stream::{Sse, SseByteStream};
use tokio::time::timeout;

use super::{Answer, Delta, ProviderError, http};

/// Most bytes without an event: a line that never ends must not fill the memory.
const EVENT_LIMIT: usize = 16 * 1024 * 1024;
/// How long to wait for figures that may follow a whole answer.
const AFTERMATH: Duration = Duration::from_secs(5);

/// A wire dialect's reading half: turns the data of events into deltas.
pub(super) trait Dialect: Send + 'static {
    /// Takes the data of one event. Pushes [`Delta::Finish`] when it saw the proper end.
    fn event(&mut self, data: &str, out: &mut VecDeque<Delta>) -> Result<(), ProviderError>;
    /// Whether the answer is whole already, so that what may follow is not worth much waiting.
    fn whole(&self) -> bool;
    /// The stream is over: pushes what is left to say and [`Delta::Finish`], or nothing where it was cut.
    fn end(&mut self, out: &mut VecDeque<Delta>);
}

/// A request that is ready to be sent.
pub(super) struct Sending {
    /// Who is asked, for errors.
    pub vendor: &'static str,
    /// The request, or why there is none.
    pub request: Result<RequestBuilder, ProviderError>,
    /// What must not be in an error.
    pub secrets: Vec<SecretString>,
}

/// Sends and reads. Dropping the answer closes the connection.
pub(super) fn answer<D: Dialect>(sending: Sending, dialect: D) -> Answer {
    let Sending { vendor, request, secrets } = sending;
    let reading = Reading { vendor, secrets, dialect, phase: Phase::Send(Box::new(request)), ready: VecDeque::new() };
    Box::pin(stream::unfold(reading, |mut reading| async move {
        let item = reading.next().await?;
        Some((item, reading))
    }))
}

struct Reading<D> {
    vendor: &'static str,
    secrets: Vec<SecretString>,
    dialect: D,
    phase: Phase,
    ready: VecDeque<Delta>,
}

enum Phase {
    Send(Box<Result<RequestBuilder, ProviderError>>),
    Read(Events),
    Failed(ProviderError),
    Over,
}

type Events = Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>;

impl<D: Dialect> Reading<D> {
    async fn next(&mut self) -> Option<Result<Delta, ProviderError>> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                if matches!(delta, Delta::Finish(_)) {
                    self.phase = Phase::Over;
                    self.ready.clear();
                }
                return Some(Ok(delta));
            }
            match std::mem::replace(&mut self.phase, Phase::Over) {
                Phase::Over => return None,
                Phase::Failed(error) => return Some(Err(http::tidy(error, &self.secrets))),
                Phase::Send(request) => {
                    self.phase = match open(self.vendor, *request).await {
                        Ok(events) => Phase::Read(events),
                        Err(error) => Phase::Failed(error),
                    }
                }
                Phase::Read(events) => self.phase = self.read(events).await,
            }
        }
    }

    /// Takes the next event, or the end.
    async fn read(&mut self, mut events: Events) -> Phase {
        let next = if self.dialect.whole() {
            timeout(AFTERMATH, events.next()).await.unwrap_or_default()
        } else {
            events.next().await
        };
        let failure = match next {
            Some(Ok(event)) => match event.data.as_deref().map(str::trim) {
                // Blocks of metadata only.
                None | Some("") => return Phase::Read(events),
                Some(data) => match self.dialect.event(data, &mut self.ready) {
                    Ok(()) => return Phase::Read(events),
                    Err(error) => error,
                },
            },
            Some(Err(error)) => broken(self.vendor, &error),
            None => ProviderError::cut(self.vendor),
        };
        // Nothing that goes wrong after the last word takes the answer back.
        self.dialect.end(&mut self.ready);
        if matches!(self.ready.back(), Some(Delta::Finish(_))) { Phase::Over } else { Phase::Failed(failure) }
    }
}

/// Sends the request and checks status and type of what comes back.
async fn open(vendor: &str, request: Result<RequestBuilder, ProviderError>) -> Result<Events, ProviderError> {
    let request = request?.header("accept", "text/event-stream");
    let response = request.send().await.map_err(|error| http::transport(vendor, &error))?;
    if !response.status().is_success() {
        return Err(http::status_error(vendor, response).await);
    }
    let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Some local servers name no type, or the plain one.
    if !matches!(essence.as_str(), "text/event-stream" | "text/plain" | "") {
        return Err(http::not_a_stream(vendor, response).await);
    }
    Ok(events(response))
}

/// The events of a body, guarded against one that never ends.
fn events(response: Response) -> Events {
    let since_event = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&since_event);
    let bytes = response.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(BodyError::Transport)?;
        if counted.fetch_add(chunk.len(), Ordering::Relaxed) > EVENT_LIMIT {
            return Err(BodyError::TooLarge);
        }
        Ok(chunk)
    });
    // A last event without its blank line is still an event.
    let closed = bytes.chain(stream::once(std::future::ready(Ok(Bytes::from_static(b"\n\n")))));
    Box::pin(SseByteStream::new(closed).inspect(move |_| since_event.store(0, Ordering::Relaxed)))
}

fn broken(vendor: &str, error: &sse_stream::Error) -> ProviderError {
    match error {
        sse_stream::Error::Body(cause) => match cause.downcast_ref() {
            Some(BodyError::Transport(error)) => http::transport(vendor, error),
            Some(BodyError::TooLarge) => {
                ProviderError::unavailable(format!("{vendor} sent {EVENT_LIMIT} bytes without an event"))
            }
            None => ProviderError::unavailable(format!("the answer of {vendor} broke off")),
        },
        // The enum is not ours and grows; what is left is text that cannot be read.
        _ => ProviderError::malformed(vendor),
    }
}

#[derive(Debug)]
enum BodyError {
    Transport(reqwest::Error),
    TooLarge,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transport(_) => "the connection broke",
            Self::TooLarge => "an event is too large",
        })
    }
}

impl std::error::Error for BodyError {}
