//! Who is let in: token, `Host` and `Origin` of each request, before any handler. What is refused is answered by the door that
//! it came to, in its own words; what is let in runs as its caller.

mod failures;
mod origin;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};

use self::{failures::Failures, origin::Hosts};
use crate::domain::{Caller, Code, OpenCode, Refusal};

/// What every request is asked for.
pub(super) struct Guard {
    domain: OpenCode,
    hosts: Hosts,
    failures: Failures,
    trusts_proxy: bool,
}

/// Paths that need no token: probes, and what a page needs to ask for one.
const OPEN: [&str; 8] = [
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/openapi.json",
    "/docs",
    "/opencode.v1.OpenCodeService/Health",
    "/grpc.health.v1.Health/Check",
];
/// What such paths begin with.
const OPEN_BELOW: [&str; 2] = ["/docs/", "/grpc.health.v1.Health/"];
/// Paths of probes, which come by whatever name the machine has.
const PROBES: [&str; 4] = ["/health", "/livez", "/readyz", "/opencode.v1.OpenCodeService/Health"];

impl Guard {
    /// `ports` are those of the listeners, `origins` those of pages that may call.
    pub(super) fn new(
        domain: OpenCode,
        access: &crate::config::Access,
        origins: &[String],
        ports: Vec<u16>,
    ) -> Result<Self, String> {
        if !access.asks_for_tokens() && origins.iter().any(|origin| origin.trim() == "*") {
            return Err(
                "OPENCODE_CORS_ORIGINS is `*` and no token is asked for, so that any web page could run commands \
                        here: name the origins, or set OPENCODE_API_TOKEN"
                    .into(),
            );
        }
        let trusts_proxy = access.trust_proxy;
        let hosts = Hosts::new(&access.allowed_hosts, origins, ports, trusts_proxy)?;
        Ok(Self { domain, hosts, failures: Failures::default(), trusts_proxy })
    }

    fn admit(&self, request: &Request) -> Result<Caller, Refusal> {
        let (headers, path) = (request.headers(), request.uri().path());
        if self.hosts.is_foreign_origin(request) {
            let detail = "this Origin is another one: pages of origins in OPENCODE_CORS_ORIGINS may call";
            return Err(Refusal::new(Code::PermissionDenied, detail));
        }
        let is_open = OPEN.contains(&path) || OPEN_BELOW.iter().any(|below| path.starts_with(below));
        if !self.domain.asks_for_tokens() {
            let is_probe = PROBES.contains(&path) || path.starts_with("/grpc.health.v1.");
            if !is_probe && !self.hosts.is_own_host(request) {
                let detail = "this Host is not known: without tokens requests come to a loopback name, or to one in \
                              OPENCODE_ALLOWED_HOSTS";
                return Err(Refusal::new(Code::PermissionDenied, detail));
            }
            return Ok(Caller::anybody());
        }
        match bearer(headers) {
            Some(token) => match self.domain.caller(token) {
                Some(caller) => Ok(caller),
                None if is_open => Ok(Caller::without_token()),
                None => Err(match self.failures.count(self.address(request)) {
                    Some(wait) => {
                        let detail = "too many wrong tokens from this address";
                        Refusal::new(Code::RateLimited, detail).retry_after(wait)
                    }
                    None => Refusal::unauthenticated(),
                }),
            },
            None if is_open => Ok(Caller::without_token()),
            None => Err(Refusal::unauthenticated()),
        }
    }

    /// Where a request comes from.
    fn address(&self, request: &Request) -> Option<IpAddr> {
        let forwarded = request.headers().get("x-forwarded-for").filter(|_| self.trusts_proxy);
        // The last one is of the proxy next to us; those before it are what others claimed.
        let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        last.or_else(|| request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip()))
    }
}

/// The token that a request shows.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Lets a request in as its caller, or has it refused by the door that it came to.
pub(super) async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    match guard.admit(&request) {
        Ok(caller) => {
            if let Some(id) = caller.token_id() {
                tracing::Span::current().record("token_id", &**id);
            }
            caller.calling(next.run(request)).await
        }
        Err(refusal) => {
            request.extensions_mut().insert(refusal);
            next.run(request).await
        }
    }
}

/// A while in which failures of an address are counted, and how many it may have.
const FAILURES: (Duration, u32) = (Duration::from_secs(60), 10);
