//! The rows of permissions: the requests, what was granted, and the session's mode.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{project, read::Snapshot};
use crate::domain::{
    event::PermissionResolved,
    permission::{Grant, Permission, PermissionMode},
};

/// The mode of sessions that have none of their own, among the store's own values.
const DEFAULT_MODE: &str = "permission_mode";
/// Requests that are kept once they are resolved.
const KEPT: i64 = 1_000;

/// What is stored of permissions beside events.
#[derive(Clone, Debug)]
pub(crate) enum PermissionRow {
    /// The mode of sessions that have none of their own.
    DefaultMode(PermissionMode),
    /// The session's own mode.
    Mode(PermissionMode),
    /// What the session was granted.
    Grants(Vec<Grant>),
}

impl Snapshot<'_> {
    /// The requests that wait, oldest first.
    pub(crate) fn open_permissions(&self) -> rusqlite::Result<Vec<Permission>> {
        let mut statement = self.tx.prepare_cached("SELECT permission FROM permissions WHERE open ORDER BY ord")?;
        let rows = statement.query_map([], |row| super::read::parse(&row.get::<_, String>(0)?))?;
        rows.collect()
    }

    /// A request, of those that are still kept.
    pub(crate) fn permission(&self, id: &str) -> rusqlite::Result<Option<Permission>> {
        permission(self.tx, id)
    }

    /// The session's own mode.
    pub(crate) fn own_mode(&self) -> rusqlite::Result<Option<PermissionMode>> {
        let own: Option<Option<String>> = self
            .tx
            .query_row("SELECT permission_mode FROM sessions ORDER BY ord DESC LIMIT 1", [], |row| row.get(0))
            .optional()?;
        Ok(own.flatten().and_then(|name| name.parse().ok()))
    }

    /// What the session was granted, and the mode that sessions have by default, as it is stored.
    pub(crate) fn grants(&self) -> rusqlite::Result<(Vec<Grant>, Option<PermissionMode>)> {
        let mut statement = self.tx.prepare(
            "SELECT granted FROM grants WHERE session = (SELECT id FROM sessions ORDER BY ord DESC LIMIT 1)",
        )?;
        let rows = statement.query_map([], |row| super::read::parse(&row.get::<_, String>(0)?))?;
        Ok((rows.collect::<rusqlite::Result<_>>()?, project::get(self.tx, DEFAULT_MODE)?))
    }
}

/// The mode of a session that has this one of its own, or none.
pub(super) fn mode(connection: &Connection, own: Option<String>) -> rusqlite::Result<PermissionMode> {
    match own.and_then(|name| name.parse().ok()) {
        Some(mode) => Ok(mode),
        None => Ok(project::get(connection, DEFAULT_MODE)?.unwrap_or(PermissionMode::Ask)),
    }
}

/// Stores what is beside the events.
pub(super) fn record(tx: &Transaction<'_>, row: &PermissionRow) -> rusqlite::Result<()> {
    match row {
        PermissionRow::DefaultMode(mode) => project::put(tx, DEFAULT_MODE, mode),
        PermissionRow::Mode(mode) => tx
            .execute(
                "UPDATE sessions SET permission_mode = ?1 WHERE ord = (SELECT MAX(ord) FROM sessions)",
                [mode.as_str()],
            )
            .map(drop),
        PermissionRow::Grants(grants) => grants.iter().try_for_each(|grant| {
            tx.execute(
                "INSERT OR IGNORE INTO grants (session, granted)
                 SELECT id, ?1 FROM sessions ORDER BY ord DESC LIMIT 1",
                [project::json(grant)?],
            )
            .map(drop)
        }),
    }
}

/// A request comes to wait.
pub(super) fn request(tx: &Transaction<'_>, permission: &Permission) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO permissions (id, open, permission) VALUES (?1, 1, ?2)",
        params![permission.id.as_str(), project::json(permission)?],
    )?;
    tx.execute("DELETE FROM permissions WHERE NOT open AND ord < ?1", [tx.last_insert_rowid() - KEPT]).map(drop)
}

/// A request waits no more. What was decided without one has no row.
pub(super) fn resolve(
    tx: &Transaction<'_>,
    here: &project::At<'_>,
    event: &PermissionResolved,
) -> rusqlite::Result<()> {
    let Some(id) = &event.permission_id else { return Ok(()) };
    let Some(mut permission) = permission(tx, id.as_str())? else { return Ok(()) };
    permission.decision = Some(event.decision);
    permission.resolved_by = Some(event.by);
    permission.reason.clone_from(&event.reason);
    permission.resolved_at = Some(here.at);
    tx.execute(
        "UPDATE permissions SET open = 0, permission = ?2 WHERE id = ?1",
        params![id.as_str(), project::json(&permission)?],
    )
    .map(drop)
}

fn permission(connection: &Connection, id: &str) -> rusqlite::Result<Option<Permission>> {
    let text: Option<String> = connection
        .prepare_cached("SELECT permission FROM permissions WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    text.map(|text| super::read::parse(&text)).transpose()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Batch, Names, Retention, Store};
    use crate::domain::{
        event::{EventKind, ModelChanged, PermissionResolved},
        permission::{PermissionDecision, PermissionResolver},
    };

    /// The figure of the README: beside a sync of the disk, which both have.
    #[tokio::test]
    async fn a_decision_adds_less_than_a_millisecond() {
        let folder = tempfile::tempdir().expect("a folder");
        let retention = Retention { age: Duration::from_secs(3600), bytes: 1 << 30 };
        let names = Names { provider: |_| "other", tool: |_| "other" };
        let store = Store::open(folder.path(), retention, names).expect("a log");
        let act = || {
            let changed = ModelChanged { model: "mock/demo".into(), previous: None };
            Batch::new().event(None, EventKind::ModelChanged(changed))
        };
        let decision = EventKind::PermissionResolved(PermissionResolved {
            permission_id: None,
            decision: PermissionDecision::AllowOnce,
            by: PermissionResolver::Rule,
            reason: Some("the rule `cargo test *`".into()),
            tool_call_id: "call_1".to_owned().into(),
            tool_name: "bash".into(),
        });
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..300 {
            for has_decision in [round % 2 == 0, round % 2 != 0] {
                let batch = if has_decision { act().event(None, decision.clone()) } else { act() };
                let began = Instant::now();
                store.append(batch).await.expect("it is stored");
                if has_decision { &mut with } else { &mut without }.push(began.elapsed());
            }
        }
        with.sort_unstable();
        without.sort_unstable();
        println!("with a decision: median {:?}; without: {:?}", with[150], without[150]);
        assert!(with[150] < without[150] + Duration::from_millis(1), "{:?} {:?}", with[150], without[150]);
    }
}
