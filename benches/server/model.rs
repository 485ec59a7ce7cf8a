//! A scripted model that speaks the OpenAI dialect, on a thread of its own. What it does is in the model's name:
//!
//! * `wait-MS`: says nothing for so many milliseconds, then a few words.
//! * `ticks-N-US`: N pieces, one each US microseconds, each the time at which it was sent (see [`micros`]).
//! * `bulk-N-BYTES`: N pieces of that size, as fast as they are taken.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use axum::{
    Json, Router, body::Body, http::header, response::IntoResponse, routing::get, routing::post, serve::ListenerExt,
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Result;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since this process began to measure.
pub(crate) fn micros() -> u64 {
    u64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Starts it; it lives as long as this process. Answers its base URL.
pub(crate) fn start() -> Result<String> {
    LazyLock::force(&BEGAN);
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address: SocketAddr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let router = Router::new()
                .route("/v1/models", get(|| async { Json(json!({"object": "list", "data": []})) }))
                .route("/v1/chat/completions", post(complete));
            let listener = TcpListener::from_std(listener)?.tap_io(|stream| drop(stream.set_nodelay(true)));
            axum::serve(listener, router).await
        })
    });
    Ok(format!("http://{address}/v1"))
}

/// Variables that make a server use it.
pub(crate) fn variables(base: &str) -> [(&'static str, &str); 2] {
    [("OPENAI_BASE_URL", base), ("OPENAI_API_KEY", "none")]
}

/// What it says, and when.
#[derive(Clone, Copy)]
enum Play {
    Wait(Duration),
    Ticks { pieces: u64, period: Duration },
    Bulk { pieces: u64, bytes: usize },
}

impl Play {
    fn of(name: &str) -> Option<Self> {
        let mut words = name.split('-');
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(match kind {
            "wait" => Self::Wait(Duration::from_millis(number()?)),
            "ticks" => Self::Ticks { pieces: number()?, period: Duration::from_micros(number()?) },
            "bulk" => Self::Bulk { pieces: number()?, bytes: usize::try_from(number()?).ok()? },
            _ => return None,
        })
    }

    /// The piece of this number, when it is due; none after the last.
    async fn piece(self, index: u64, began: tokio::time::Instant) -> Option<String> {
        match self {
            Self::Wait(time) if index == 0 => {
                if !time.is_zero() {
                    tokio::time::sleep_until(began + time).await;
                }
                Some("first ".into())
            }
            Self::Wait(_) => (index < 5).then(|| "word ".into()),
            Self::Ticks { pieces, period } => {
                tokio::time::sleep_until(began + period * u32::try_from(index).ok()?).await;
                (index < pieces).then(|| format!("{} ", micros()))
            }
            Self::Bulk { pieces, bytes } => (index < pieces).then(|| "word ".repeat(bytes.div_ceil(5))),
        }
    }
}

async fn complete(Json(request): Json<Value>) -> impl IntoResponse {
    let play = request["model"].as_str().and_then(Play::of).unwrap_or(Play::Wait(Duration::ZERO));
    let began = tokio::time::Instant::now();
    let stream = futures_util::stream::unfold(Some(0), move |index| async move {
        let index = index?;
        let (frame, next) = match play.piece(index, began).await {
            Some(text) => (chunk(&json!({"content": text}), None), Some(index + 1)),
            None => (format!("{}data: [DONE]\n\n", chunk(&json!({}), Some("stop"))), None),
        };
        Some((Ok::<_, Infallible>(Bytes::from(frame)), next))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream))
}

fn chunk(delta: &Value, finish: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    let chunk =
        json!({"id": "chatcmpl-0", "object": "chat.completion.chunk", "model": "scripted", "choices": [choice]});
    format!("data: {chunk}\n\n")
}
