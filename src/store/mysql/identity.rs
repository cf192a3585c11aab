//! Who a server is, and whether another host is the same.
//!
//! A name is not enough: a group's name is configuration, a cluster's UUID is data, and both are copied with the files. So an
//! identity comes with the cluster's members and with a proof, which every lease checks again. Another host counts as the
//! same only if it shows what only the same server or cluster can know.

use std::sync::Arc;

use mysql_async::Value;

use super::make::NotRising;
use super::members::Members;
use super::{Connection, ErrorKind, Failed, Server, Session, StoreError};
use crate::config::DatabaseHost;
use crate::faults::{self, Guard as Switch};

/// On a Galera node each statement waits for what the cluster has committed before it, so that a look after an INSERT can't
/// miss a migration that another node began.
const GALERA_SESSION: &str = "SET SESSION wsrep_sync_wait = 7";

/// The same on a member of a group with several primaries.
const MULTI_PRIMARY_SESSION: &str = "SET SESSION group_replication_consistency = 'BEFORE'";

/// The members of a Galera cluster. Its nodes have a new UUID after each start.
const GALERA_MEMBERS: &str = "SELECT node_uuid FROM mysql.wsrep_cluster_members";

/// This member's row and the others of the group. A view's ID is `FIXED:N`: a bootstrap sets FIXED, and each change of members
/// increments N.
const GROUP_MEMBERS: &str = "SELECT m.MEMBER_ID, m.MEMBER_STATE, COALESCE(s.VIEW_ID, ''), m.MEMBER_ID = @@server_uuid \
     FROM performance_schema.replication_group_members m \
     LEFT JOIN performance_schema.replication_group_member_stats s USING (MEMBER_ID)";

/// The states of the members of a group that vote, and can be reached.
const VOTERS: [&str; 2] = ["ONLINE", "RECOVERING"];

/// The account may not read a table.
const TABLE_DENIED: u16 = 1142;

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// In a cluster the cluster's name, because its nodes share the counters; in a group also the incarnation.
    pub(super) name: String,
    /// SQL that is true on this server only, and in a cluster only as long as its members are these.
    pub(super) proof: String,
    /// The cluster's members; empty without a cluster.
    pub(super) members: Members,
    /// The same without the incarnation, as counters' rows and earlier builds record it.
    pub(super) server: String,
    /// SQL that is true if what a statement changes is logged as rows.
    pub(super) is_row_logged: &'static str,
    /// The make of server, if its auto-increment values do not rise: no tickets can be leased from it.
    pub(super) not_rising: Option<NotRising>,
    kind: Kind,
}

/// How the identity of a server is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A single MySQL server.
    MySql,
    /// A single MariaDB server.
    MariaDb,
    /// A node of a Galera cluster; its status is in this table.
    Galera(&'static str),
    /// A member of a group of Group Replication, or one that has left it.
    Group,
}

/// What is asked of a server.
struct Variables(Vec<(String, String)>);

impl Variables {
    const QUERY: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'server_uuid', 'wsrep_on', \
         'wsrep_provider', 'group_replication_group_name', 'group_replication_single_primary_mode', \
         'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', 'binlog_format')";

    fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.as_str())
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.value(name).eq_ignore_ascii_case(value)
    }

    fn kind(&self) -> Kind {
        // Without a provider it is a single server, whatever `wsrep_on` says.
        let has_provider = !self.value("wsrep_provider").is_empty() && !self.is("wsrep_provider", "none");
        if self.is("wsrep_on", "ON") && (has_provider || faults::is_off(Switch::Evidence)) {
            let is_mysql = !self.value("server_uuid").is_empty();
            Kind::Galera(if is_mysql { "performance_schema.global_status" } else { "information_schema.GLOBAL_STATUS" })
        } else if !self.value("group_replication_group_name").is_empty() {
            Kind::Group
        } else if !self.value("server_uuid").is_empty() {
            Kind::MySql
        } else {
            Kind::MariaDb
        }
    }
}

/// What a server says of itself.
enum Standing {
    /// It serves, alone or as a member of its cluster.
    Serves(Read),
    /// Why it is not in the cluster that it is configured for.
    Stray(String),
}

/// The parts of an identity that are read from the server.
#[derive(Default)]
struct Read {
    name: String,
    server: String,
    proof: String,
    members: Members,
    /// Which member this server is.
    me: String,
}

impl Kind {
    fn is_cluster(self) -> bool {
        matches!(self, Self::Galera(_) | Self::Group)
    }

    /// The statement that sets up each session on such a server.
    fn session(self, variables: &Variables) -> Option<&'static str> {
        match self {
            Self::Galera(_) => Some(GALERA_SESSION),
            Self::Group if faults::is_off(Switch::Evidence) => None,
            Self::Group if variables.is("group_replication_single_primary_mode", "OFF") => Some(MULTI_PRIMARY_SESSION),
            _ => None,
        }
    }

    async fn read(self, session: &mut Session<'_, impl Connection>) -> Result<Standing, StoreError> {
        match self {
            _ if faults::is_off(Switch::Evidence) && self.is_cluster() => self.read_name(session).await,
            Self::MySql => self.read_plain(session, "@@server_uuid").await,
            // `@@server_uuid` does not exist on MariaDB. Its `@@server_uid` is no identity: tried on 10.11, two servers with
            // data of their own had the same on the same port, and one server another on another port.
            // `server_id` is the global one: a session that is open keeps its own when an operator sets it.
            Self::MariaDb => self.read_plain(session, "CONCAT(@@hostname, ':', @@port, ':', @@global.server_id)").await,
            Self::Galera(status) => self.read_galera(session, status).await,
            Self::Group => self.read_group(session).await,
        }
    }

    /// The name alone: for tests that switch the guard off.
    async fn read_name(self, session: &mut Session<'_, impl Connection>) -> Result<Standing, StoreError> {
        let expression = match self {
            Self::Galera(status) => {
                format!("(SELECT VARIABLE_VALUE FROM {status} WHERE VARIABLE_NAME = 'wsrep_cluster_state_uuid')")
            }
            _ => "@@group_replication_group_name".to_owned(),
        };
        self.read_plain(session, &expression).await
    }

    async fn read_plain(
        self,
        session: &mut Session<'_, impl Connection>,
        expression: &str,
    ) -> Result<Standing, StoreError> {
        let rows: Vec<Option<String>> = session.rows(&format!("SELECT {expression}")).await?;
        let name = rows.into_iter().next().flatten().unwrap_or_default();
        if name.is_empty() && !faults::is_off(Switch::Evidence) {
            return Ok(Standing::Stray(format!("it has no identity: {expression} is empty")));
        }
        let proof = format!("{expression} = {}", quoted(&name));
        Ok(Standing::Serves(Read { server: name.clone(), name, proof, ..Read::default() }))
    }

    async fn read_galera(
        self,
        session: &mut Session<'_, impl Connection>,
        status: &str,
    ) -> Result<Standing, StoreError> {
        let view = format!(
            "(SELECT GROUP_CONCAT(VARIABLE_VALUE ORDER BY VARIABLE_NAME SEPARATOR ' ') FROM {status} \
             WHERE VARIABLE_NAME IN ('wsrep_cluster_conf_id', 'wsrep_cluster_state_uuid'))"
        );
        let me = format!("(SELECT VARIABLE_VALUE FROM {status} WHERE VARIABLE_NAME = 'wsrep_gcomm_uuid')");
        // If `wsrep_on` was turned off, a session writes to this node alone.
        let size = format!("(SELECT VARIABLE_VALUE FROM {status} WHERE VARIABLE_NAME = 'wsrep_cluster_size')");
        let sql = format!("SELECT IF(@@wsrep_on, {view}, NULL), {me}, {size}");
        let read_view = async |session: &mut Session<'_, _>| {
            let rows: Vec<(Option<String>, Option<String>, Option<String>)> = session.rows(&sql).await?;
            Ok::<_, StoreError>(rows.into_iter().next().unwrap_or_default())
        };
        let (before, me, size) = read_view(session).await?;
        let members: Vec<String> = session
            .rows(GALERA_MEMBERS)
            .await
            .map_err(|failed| denied(failed, "GRANT SELECT ON mysql.wsrep_cluster_members"))?;
        let (after, ..) = read_view(session).await?;
        // The table and the status may not change at the same moment.
        if before != after || (before.is_some() && size != Some(members.len().to_string())) {
            let what = format!("{}: the members of the Galera cluster change just now", session.at());
            return Err(StoreError::new(ErrorKind::Moved, what));
        }
        let (Some(now), Some(me)) = (before, me) else {
            return Ok(Standing::Stray("it is in no Galera cluster: wsrep_on is off".to_owned()));
        };
        let name = now.split_once(' ').map_or("", |(_, state)| state).to_owned();
        let members = Members::new(members);
        if name.is_empty() || !members.contains(&me) {
            return Ok(Standing::Stray(
                "it is in no Galera cluster: it has no state UUID, or is not a member".to_owned(),
            ));
        }
        let proof = format!("@@wsrep_on AND {view} = {}", quoted(&now));
        Ok(Standing::Serves(Read { server: name.clone(), name, proof, members, me }))
    }

    async fn read_group(self, session: &mut Session<'_, impl Connection>) -> Result<Standing, StoreError> {
        let rows: Vec<(String, String, String, bool)> = session.rows(GROUP_MEMBERS).await.map_err(|failed| {
            denied(
                failed,
                "GRANT SELECT ON performance_schema.replication_group_members, and SELECT ON \
                 performance_schema.replication_group_member_stats",
            )
        })?;
        let Some((me, state, view, _)) = rows.iter().find(|(.., is_me)| *is_me) else {
            return Ok(Standing::Stray("it is outside of its group: Group Replication does not run".to_owned()));
        };
        if state != "ONLINE" || view.is_empty() {
            return Ok(Standing::Stray(format!("it is outside of its group: MEMBER_STATE is {state}")));
        }
        let names: Vec<String> = session.rows("SELECT @@group_replication_group_name").await?;
        let server = names.into_iter().next().unwrap_or_default();
        let name = format!("{server}:{}", view.split(':').next().unwrap_or_default());
        let proof = format!(
            "(SELECT IF(m.MEMBER_STATE = 'ONLINE', s.VIEW_ID, '') FROM performance_schema.replication_group_members m \
             JOIN performance_schema.replication_group_member_stats s USING (MEMBER_ID) WHERE m.MEMBER_ID = @@server_uuid) = {}",
            quoted(view)
        );
        // One that recovers votes too. No change of the view tells when it is online, or when one is reachable again.
        let voters = rows.iter().filter(|(_, state, ..)| VOTERS.contains(&&**state)).map(|(id, ..)| id.clone());
        let (members, me) = (Members::new(voters.collect()), me.clone());
        let proof = format!(
            "{proof} AND (SELECT GROUP_CONCAT(MEMBER_ID ORDER BY MEMBER_ID SEPARATOR ' ') \
             FROM performance_schema.replication_group_members WHERE MEMBER_STATE IN ('{}')) = {}",
            VOTERS.join("', '"),
            quoted(&members.recorded())
        );
        Ok(Standing::Serves(Read { name, server, proof, members, me }))
    }
}

/// The error for a missing privilege; it names the statement that grants it.
fn denied(failed: Failed, grant: &str) -> StoreError {
    let is_denied = failed.is(&[TABLE_DENIED]);
    let mut error = StoreError::from(failed);
    if is_denied {
        error.what = format!(
            "{}. A cluster's members must be known, or a part that was split off could repeat IDs. As an administrator: {grant} \
             TO the account",
            error.what
        );
    }
    error
}

/// `text` as an SQL literal.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).as_sql(false)
}

impl Identity {
    /// Reads the identity. Refuses a server that is not in its cluster, and one that logs statements as text. With
    /// `mysql.require_durable`, also refuses one that may lose what it has acknowledged.
    pub(super) async fn of(session: &mut Session<'_>) -> Result<Self, StoreError> {
        let variables = Variables(session.rows(Variables::QUERY).await?);
        let value = |name| variables.value(name);
        let not_rising = NotRising::recognise(value("version"), value("version_comment"));
        let is_logged = variables.is("log_bin", "ON");
        if is_logged && variables.is("binlog_format", "STATEMENT") && !faults::is_off(Switch::RowFormat) {
            return Err(statement_format(&session.at()));
        }
        if session.server.requires_durable() {
            let lossy = [("innodb_flush_log_at_trx_commit", true), ("sync_binlog", is_logged)]
                .into_iter()
                .find(|(name, matters)| *matters && value(name) != "1");
            if let Some((name, _)) = lossy {
                return Err(StoreError::new(
                    ErrorKind::NotDurable,
                    format!(
                        "{}: {name} is {}, so that a crash of the database may lose leases that it has acknowledged, and \
                         mysql.require_durable is set. Set it to 1 there (SET GLOBAL {name} = 1, and in its configuration)",
                        session.at(),
                        value(name)
                    ),
                ));
            }
        }
        let kind = variables.kind();
        let set_up = kind.session(&variables);
        session.server.set_session(set_up);
        if let Some(sql) = set_up {
            session.execute(sql).await?;
        }
        let has_format = is_logged && !value("binlog_format").is_empty() && !faults::is_off(Switch::RowFormat);
        match kind.read(session).await? {
            Standing::Serves(Read { name, server, proof, members, .. }) => Ok(Self {
                name,
                proof,
                members,
                server,
                is_row_logged: if has_format { "@@binlog_format <> 'STATEMENT'" } else { "TRUE" },
                not_rising,
                kind,
            }),
            Standing::Stray(why) => Err(stray(&session.at(), &why)),
        }
    }

    /// Whether it is a cluster, whose members may change between two statements.
    pub(super) fn is_cluster(&self) -> bool {
        !self.members.is_empty()
    }

    /// The roles of the other hosts of `mysql.host`. `has_meta`: the table exists by which Galera nodes prove to be one.
    pub(super) async fn roles_of_others(
        &self,
        server: &Arc<Server>,
        session: &mut Session<'_>,
        has_meta: bool,
    ) -> Result<Vec<(DatabaseHost, Role)>, StoreError> {
        let others = server.others(session, self, has_meta).await?;
        let role = |answer: Result<HostStatus, String>| match answer {
            Err(why) => Role::Away(why),
            Ok(status) if status.proof == Proof::Shown => Role::Same,
            Ok(HostStatus { takes_writes: false, .. }) => Role::StandIn,
            Ok(HostStatus { stray: Some(why), .. }) if self.is_cluster() => Role::Stray(why),
            Ok(_) => Role::Writer,
        };
        Ok(others.into_iter().map(|(other, answer)| (other, role(answer))).collect())
    }

    /// Whether a lock shows that another host is the same server.
    pub(super) fn is_shown_by_lock(&self) -> bool {
        matches!(self.kind, Kind::MySql | Kind::MariaDb) && !faults::is_off(Switch::Evidence)
    }
}

/// Why IDs could be repeated if a counter is not fenced that was last fenced for `before`. Names the parts of MariaDB's identity
/// that changed, if not all did.
pub(super) fn why_not_fenced(before: &str, now: &str) -> String {
    const LOST: &str = "fter a failover or a restore, commits that the old server acknowledged may be missing here";
    let parts = |name: &str| -> Vec<String> {
        name.split(' ').next().unwrap_or_default().rsplitn(3, ':').map(str::to_owned).collect()
    };
    let (before, now) = (parts(before), parts(now));
    let pairs = ["server_id", "port", "host name"].into_iter().zip(before.iter().zip(&now));
    let changed: Vec<String> = pairs
        .filter(|(_, (before, now))| before != now)
        .map(|(part, (before, now))| format!("{part} was {before} and is {now}"))
        .collect();
    if before.len() == 3 && now.len() == 3 && (1..3).contains(&changed.len()) {
        let changed = changed.join(", its ");
        format!(
            "Its {changed}. If this is the same server with the same data files, and only its settings changed, no commit is missing \
             and --skip 1 is enough. A{LOST}"
        )
    } else {
        format!("A{LOST}")
    }
}

/// The token that a Galera node shows.
pub(super) const TOKEN: &str = "SELECT token FROM seqsvr_meta WHERE id = 1";

/// The error for a server outside of the cluster that the database belongs to.
pub(super) fn stray(at: &str, why: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Stray,
        format!(
            "{at}: {why}. What was leased since is unknown here, so IDs could be repeated and nothing is leased. Let it join its \
             cluster again, or shut it down; let mysql.host name the cluster's other hosts"
        ),
    )
}

/// The error for a server that logs statements as text: a lease's WHERE is evaluated by each replica on its own.
pub(super) fn statement_format(at: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Misconfigured,
        format!(
            "{at}: binlog_format is STATEMENT. A replica would evaluate a lease's condition by itself and not move its counters, so \
             that IDs are repeated after a failover. SET GLOBAL binlog_format = 'ROW' (or 'MIXED'), and in its configuration; then \
             rebuild its replicas"
        ),
    )
}

/// What another host is to the one that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It proved to be another node of the same cluster, or the same server by another name.
    Same,
    /// A read-only server.
    StandIn,
    /// A server that takes writes, and is outside of the cluster.
    Stray(String),
    /// Another server that takes writes.
    Writer,
    /// It does not answer, for this reason.
    Away(String),
}

/// What to do about a [`Role::Writer`].
pub(super) const ONE_IS_TO_WRITE: &str = "After a failover make the old primary read-only (SET GLOBAL read_only = 1; on MySQL \
     super_read_only) and rebuild it as a replica; else make the stand-in read-only";

/// What a host that is not leased from says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostStatus {
    /// Whether it is the server that asks, or in its cluster.
    pub(super) proof: Proof,
    /// Why it is outside of its own cluster, or of no part that may go on.
    stray: Option<String>,
    takes_writes: bool,
}

/// Whether another host has proved to be the same server or cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Shown,
    /// It is a node of the Galera cluster, which is to show the token.
    ByToken,
    Missing,
}

impl HostStatus {
    /// Asks for `asking`, over a session of its own. `lock` is held on the server that asks.
    pub(super) async fn ask(
        session: &mut Session<'_>,
        asking: &Identity,
        lock: &str,
        has_meta: bool,
    ) -> Result<Self, StoreError> {
        let variables = Variables(session.rows(Variables::QUERY).await?);
        let kind = variables.kind();
        if let Some(sql) = kind.session(&variables) {
            session.execute(sql).await?;
        }
        let takes_writes = takes_writes(session).await?;
        let read = match kind.read(session).await? {
            Standing::Serves(read) => read,
            Standing::Stray(why) => return Ok(Self { proof: Proof::Missing, stray: Some(why), takes_writes }),
        };
        let shown = |is_shown| if is_shown { Proof::Shown } else { Proof::Missing };
        let proof = match asking.kind {
            _ if read.name != asking.name => Proof::Missing,
            _ if faults::is_off(Switch::Evidence) => Proof::Shown,
            Kind::MySql | Kind::MariaDb => {
                let holder: Vec<Option<u64>> = session.rows(&format!("SELECT IS_USED_LOCK('{lock}')")).await?;
                shown(holder.into_iter().next().flatten().is_some())
            }
            Kind::Galera(_) if has_meta && asking.members.contains(&read.me) => Proof::ByToken,
            Kind::Galera(_) | Kind::Group => shown(asking.members.contains(&read.me)),
        };
        let mut stray = None;
        if proof == Proof::Missing && asking.is_cluster() {
            // A part that may go on by its own record is leased from by others: no stray, but a second writer.
            let recorded = session.rows::<String>("SELECT members FROM seqsvr_meta WHERE id = 1").await;
            let recorded = recorded.ok().and_then(|rows| rows.first().map(|members| Members::parse(members)));
            stray = recorded
                .filter(|recorded| !read.members.is_majority_of(recorded))
                .map(|recorded| format!("it sees {} of its cluster", read.members.share_of(&recorded)));
        }
        Ok(Self { proof, stray, takes_writes })
    }
}

/// Whether the server that is connected is nobody's read-only replica. An account with every privilege may write to one all
/// the same.
async fn takes_writes(session: &mut Session<'_>) -> Result<bool, StoreError> {
    let rows: Vec<ReadOnly> = session.rows(READ_ONLY_QUERY).await?;
    Ok(is_writable(rows.first()))
}

/// Asks whether the server is read-only. `super_read_only` sets `read_only` too. A reader of Amazon Aurora is read-only by
/// `innodb_read_only` alone.
pub(super) const READ_ONLY_QUERY: &str = "SELECT @@global.read_only, @@global.innodb_read_only";

/// The answer to [`READ_ONLY_QUERY`].
pub(super) type ReadOnly = (Option<String>, Option<String>);

/// Whether both variables are off. MariaDB 12 has more values of `read_only` than ON and OFF.
pub(super) fn is_writable(read_only: Option<&ReadOnly>) -> bool {
    let is_off = |value: &Option<String>| matches!(value.as_deref(), Some("0" | "OFF"));
    read_only.is_some_and(|(server, engine)| is_off(server) && is_off(engine))
}

#[cfg(test)]
mod tests {
    use super::why_not_fenced;

    #[test]
    fn what_changed_of_an_identity_is_named() {
        for (before, now, named) in [
            ("db1:3306:1 5e0c", "db1:3306:2 5e0c", Some("Its server_id was 1 and is 2. If")),
            (
                "3f2a9c1b7d10:3306:1",
                "77aa9c1b7d10:3306:1",
                Some("Its host name was 3f2a9c1b7d10 and is 77aa9c1b7d10. If"),
            ),
            ("db1:3306:1", "db1:3307:2", Some("Its server_id was 1 and is 2, its port was 3306 and is 3307. If")),
            ("db1:3306:1", "db2:3307:2", None),
            ("db1:3306:1", "db1:3306:1", None),
            ("0e1d7b5a-3f44-11f0", "9d1d7b5a-3f44-11f0", None),
            ("", "db1:3306:1", None),
        ] {
            let why = why_not_fenced(before, now);
            assert!(why.ends_with(
                "After a failover or a restore, commits that the old server acknowledged may be missing here"
            ));
            assert_eq!(why.starts_with("Its"), named.is_some(), "{before}, {now}: {why}");
            assert!(named.is_none_or(|named| why.starts_with(named)), "{why}");
        }
    }
}
