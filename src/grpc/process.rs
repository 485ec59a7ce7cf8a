//! The RPCs of processes, and their conversions.

use tonic::Response;

use super::{
    Result, pb,
    session::{page, signed, time},
};
use crate::domain::{AgentProcess, OpenCode, ProcessEnded, ProcessEnding, ProcessKind, ProcessLeft, ProcessesEnded};

pub(super) async fn list_processes(domain: &OpenCode) -> Result<pb::ListProcessesResponse> {
    let list = domain.list_processes().await?;
    Ok(page(list, |processes, pagination, as_of, as_of_seq| pb::ListProcessesResponse {
        processes,
        pagination,
        as_of,
        as_of_seq,
    }))
}

pub(super) async fn end_process(domain: &OpenCode, wish: pb::EndProcessRequest) -> Result<pb::EndProcessResponse> {
    Ok(Response::new(domain.end_process(&wish.process_id).await?.into()))
}

impl From<AgentProcess> for pb::AgentProcess {
    fn from(process: AgentProcess) -> Self {
        let AgentProcess {
            id,
            pid,
            command,
            kind,
            turn_id,
            tool_call_id,
            started_at,
            processes,
            cpu_ms,
            rss_bytes,
            ports,
        } = process;
        let kind = match kind {
            ProcessKind::Foreground => pb::ProcessKind::Foreground,
            ProcessKind::Job => pb::ProcessKind::Job,
        };
        Self {
            id: id.to_string(),
            pid,
            command,
            kind: kind.into(),
            turn_id: turn_id.to_string(),
            tool_call_id: tool_call_id.map(|id| id.to_string()).unwrap_or_default(),
            started_at: Some(time(started_at)),
            processes: signed(processes),
            cpu_ms: signed(cpu_ms),
            rss_bytes: signed(rss_bytes),
            ports: ports.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ProcessesEnded> for pb::EndProcessResponse {
    fn from(done: ProcessesEnded) -> Self {
        let ProcessesEnded { processes_ended, processes_left, processes_unnamed, took_ms } = done;
        Self {
            processes_ended: processes_ended.into_iter().map(Into::into).collect(),
            processes_left: processes_left.into_iter().map(Into::into).collect(),
            took_ms: signed(took_ms),
            processes_unnamed: signed(processes_unnamed),
        }
    }
}

impl From<ProcessEnded> for pb::EndedProcess {
    fn from(process: ProcessEnded) -> Self {
        let ProcessEnded { pid, command, how } = process;
        let how = match how {
            ProcessEnding::Term => pb::ProcessEnding::Term,
            ProcessEnding::Kill => pb::ProcessEnding::Kill,
        };
        Self { pid, command, how: how.into() }
    }
}

impl From<ProcessLeft> for pb::LeftProcess {
    fn from(process: ProcessLeft) -> Self {
        let ProcessLeft { pid, command } = process;
        Self { pid, command }
    }
}
