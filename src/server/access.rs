//! Who is let in: token, `Host` and `Origin` of each request, before any handler. What is refused is answered by the door that
//! it came to, in its own words; what is let in runs as its caller.

mod failures;
mod origin;
mod traffic;

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, Method, Uri, header},
    middleware::Next,
    response::Response,
};
use tokio_util::sync::CancellationToken;

use self::{
    failures::Failures,
    origin::Hosts,
    traffic::{Admitted, Traffic},
};
use crate::{
    config::Config,
    domain::{Caller, Code, OpenCode, Refusal, TicketUse},
    requests::Record,
};

/// What every request is asked for.
pub(super) struct Guard {
    domain: OpenCode,
    hosts: Hosts,
    failures: Failures,
    traffic: Traffic,
    trusts_proxy: bool,
}

/// Paths that need no token, beside those of probes: what a page needs to ask for one.
const OPEN: [&str; 3] = ["/", "/openapi.json", "/docs"];
/// Paths of probes, which come by whatever name the machine has, and however much is going on.
const PROBES: [&str; 4] = ["/health", "/livez", "/readyz", "/opencode.v1.OpenCodeService/Health"];

fn is_probe(path: &str) -> bool {
    PROBES.contains(&path) || path.starts_with("/grpc.health.v1.Health/")
}

impl Guard {
    /// `ports` are those of the listeners.
    pub(super) fn new(domain: OpenCode, config: &Config, ports: Vec<u16>) -> Result<Self, String> {
        let (access, origins) = (&config.access, &config.cors_origins);
        if !access.asks_for_tokens() && origins.iter().any(|origin| origin.trim() == "*") {
            return Err(
                "OPENCODE_CORS_ORIGINS is `*` and no token is asked for, so that any web page could run commands \
                        here: name the origins, or set OPENCODE_API_TOKEN"
                    .into(),
            );
        }
        let trusts_proxy = access.trust_proxy;
        let hosts = Hosts::new(&access.allowed_hosts, origins, ports, trusts_proxy)?;
        let traffic = Traffic::new(&config.requests, access.asks_for_tokens());
        Ok(Self { domain, hosts, failures: Failures::default(), traffic, trusts_proxy })
    }

    /// Who sends a request, if it is let in.
    fn admit(&self, request: &mut Request) -> Result<(Caller, Option<TicketUse>), Refusal> {
        let ticket = take_ticket(request);
        let (headers, path) = (request.headers(), request.uri().path());
        if self.hosts.is_foreign_origin(request) {
            let detail = "this Origin is another one: pages of origins in OPENCODE_CORS_ORIGINS may call";
            return Err(Refusal::new(Code::PermissionDenied, detail));
        }
        if !self.domain.asks_for_tokens() {
            if !is_probe(path) && !self.hosts.is_own_host(request) {
                let detail = "this Host is not known: without tokens requests come to a loopback name, or to one in \
                              OPENCODE_ALLOWED_HOSTS";
                return Err(Refusal::new(Code::PermissionDenied, detail));
            }
            return Ok((Caller::anybody(), None));
        }
        let is_open = OPEN.contains(&path) || is_probe(path) || path.starts_with("/docs/");
        let found = match (bearer(headers), ticket) {
            (Some(token), _) => self.domain.caller(token).map(|caller| (caller, None)),
            (None, Some(ticket)) if [Method::GET, Method::HEAD].contains(request.method()) => {
                let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
                self.domain.use_ticket(&ticket, path, origin).map(|(caller, used)| (caller, Some(used)))
            }
            (None, Some(_)) => None,
            (None, None) if is_open => return Ok((Caller::without_token(), None)),
            (None, None) => return Err(Refusal::unauthenticated()),
        };
        match found {
            Some(found) => Ok(found),
            None if is_open => Ok((Caller::without_token(), None)),
            None => Err(match self.failures.count(self.address(request)) {
                Some(wait) => {
                    Refusal::new(Code::RateLimited, "too many wrong tokens from this address").retry_after(wait)
                }
                None => Refusal::unauthenticated(),
            }),
        }
    }

    /// Where a request comes from.
    fn address(&self, request: &Request) -> Option<IpAddr> {
        let forwarded = request.headers().get_all("x-forwarded-for").iter().next_back().filter(|_| self.trusts_proxy);
        // The last one is of the proxy next to us; those before it are what others claimed.
        let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        last.or_else(|| request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip()))
    }
}

/// The token that a request shows.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii()).filter(|token| !token.is_empty())
}

/// Takes the ticket out of a request, so that nobody behind here sees it.
fn take_ticket(request: &mut Request) -> Option<String> {
    let query = request.uri().query().filter(|query| query.contains("ticket="))?;
    let (mut ticket, mut rest) = (None, Vec::new());
    for pair in query.split('&') {
        match pair.strip_prefix("ticket=") {
            Some(value) => ticket = Some(value.to_owned()),
            None => rest.push(pair),
        }
    }
    ticket.as_ref()?;
    let path = request.uri().path();
    let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    let mut parts = request.uri().clone().into_parts();
    // What was a target is one with a parameter less.
    parts.path_and_query = target.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    ticket
}

/// Lets a request in as its caller, or has it refused by the door that it came to.
pub(super) async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    // A watch of health stays, and is a stream like any other.
    let path = request.uri().path();
    let is_counted = !is_probe(path) || path.ends_with("/Watch");
    let admitted = guard.admit(&mut request).and_then(|(caller, ticket)| {
        let traffic = if is_counted { Some(guard.traffic.admit(&caller)?) } else { None };
        Ok((caller, ticket, traffic))
    });
    match admitted {
        Ok((caller, ticket, traffic)) => {
            if let (Some(id), Some(record)) = (caller.token_id(), request.extensions().get::<Record>()) {
                record.set_token(id.clone());
            }
            let ended = caller.ended().clone();
            let upload = Some(ended.clone()).filter(|_| caller.token_id().is_some());
            let request = request.map(|body| match body.is_end_stream() {
                true => body,
                false => Body::new(Held { body, ended: upload, _held: () }),
            });
            let response = caller.calling(next.run(request)).await;
            let held = (ticket, traffic.map(Admitted::answers));
            // Such as a file; what is a stream says itself why it ends.
            let has_length = response.headers().contains_key(header::CONTENT_LENGTH);
            response.map(|body| match HttpBody::size_hint(&body).exact() {
                Some(0) => body,
                length => {
                    let ended = (has_length || length.is_some()).then_some(ended);
                    Body::new(Held { body, ended, _held: held })
                }
            })
        }
        Err(refusal) => {
            request.extensions_mut().insert(refusal);
            next.run(request).await
        }
    }
}

/// A body that is on its way, and what ends with it.
struct Held<T> {
    body: Body,
    /// Cancelled when its caller's token is good no more.
    ended: Option<CancellationToken>,
    _held: T,
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        if self.ended.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::other("the token is good no more")))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A while in which failures of an address are counted, and how many it may have.
const FAILURES: (Duration, u32) = (Duration::from_secs(60), 10);
