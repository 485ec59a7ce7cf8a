//! `Health`, and the standard health service, which tells the same truth.

use std::time::Duration;

use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};

use super::{
    pb,
    session::{signed, time},
    stream::Streaming,
};
use crate::domain::{Health, HealthStatus, OpenCode, Readiness};

/// How often a watcher looks again for what nobody tells.
const LOOK: Duration = Duration::from_secs(5);
/// The services that can be asked for; the empty name is the server.
const SERVICES: [&str; 2] = ["", "opencode.v1.OpenCodeService"];

impl From<Health> for pb::HealthResponse {
    fn from(health: Health) -> Self {
        let Health { status, version, checks, uptime_s, timestamp } = health;
        let status = match status {
            HealthStatus::Serving => pb::HealthStatus::Serving,
            HealthStatus::NotServing => pb::HealthStatus::NotServing,
        };
        Self {
            status: status.into(),
            details: checks.into_iter().map(|(name, check)| (name, check.as_str().to_owned())).collect(),
            timestamp: Some(time(timestamp)),
            version,
            uptime_s: Some(signed(uptime_s)),
        }
    }
}

/// `grpc.health.v1.Health`.
pub(super) struct Probe {
    domain: OpenCode,
}

impl Probe {
    pub(super) fn new(domain: OpenCode) -> Self {
        Self { domain }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

fn told(readiness: &Readiness) -> ServingStatus {
    match readiness.status() {
        HealthStatus::Serving => ServingStatus::Serving,
        HealthStatus::NotServing => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl health_server::Health for Probe {
    type WatchStream = Streaming<HealthCheckResponse>;

    async fn check(&self, call: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = call.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!("there is no service \"{service}\"")));
        }
        Ok(Response::new(answer(told(&self.domain.readiness().await))))
    }

    async fn watch(&self, call: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = SERVICES.contains(&call.into_inner().service.as_str());
        let state = (self.domain.clone(), known, None);
        let changes = futures_util::stream::unfold(state, |(domain, known, last)| async move {
            loop {
                let readiness = domain.readiness().await;
                let now = if known { told(&readiness) } else { ServingStatus::ServiceUnknown };
                if last != Some(now) {
                    return Some((Ok(answer(now)), (domain, known, Some(now))));
                }
                tokio::select! {
                    // That the server is about to end is told before the end.
                    biased;
                    () = domain.readiness_changed(&readiness) => {}
                    () = domain.closing() => return None,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
