//! Who a server is, and whether it may be written to.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};

use super::make::NotRising;
use super::server::GALERA_SESSION;
use super::{ErrorKind, Session, StoreError};
use crate::config::DatabaseHost;

/// Who a server is, in SQL that every lease asks anew: the connection may have moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// An expression whose value is the identity: a cluster's own where there is one, for its nodes share the counter.
    pub(super) expression: &'static str,
    /// The make, if its auto-increment values do not rise: no tickets can be leased from it.
    pub(super) not_rising: Option<NotRising>,
}

/// What is asked of a server.
struct Variables(Vec<(String, String)>);

impl Variables {
    const QUERY: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'server_uuid', 'wsrep_on', \
         'group_replication_group_name', 'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog')";

    fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.as_str())
    }

    fn is_galera(&self) -> bool {
        self.value("wsrep_on").eq_ignore_ascii_case("ON")
    }

    fn expression(&self) -> &'static str {
        if self.is_galera() {
            "(SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
              WHERE VARIABLE_NAME = 'WSREP_CLUSTER_STATE_UUID')"
        } else if !self.value("group_replication_group_name").is_empty() {
            "@@group_replication_group_name"
        } else if !self.value("server_uuid").is_empty() {
            "@@server_uuid"
        } else {
            // `@@server_uuid` does not exist on MariaDB. Its `@@server_uid` is no identity: tried on 10.11, two servers with
            // data of their own had the same on the same port, and one server another on another port.
            "CONCAT(@@hostname, ':', @@port, ':', @@server_id)"
        }
    }
}

impl Identity {
    /// Chooses the expression. Where that is asked for, refuses servers that may lose what they have acknowledged.
    pub(super) async fn of(session: &mut Session<'_>) -> Result<Self, StoreError> {
        let variables = Variables(session.rows(Variables::QUERY).await?);
        let value = |name| variables.value(name);
        let not_rising = NotRising::recognise(value("version"), value("version_comment"));
        if session.server.requires_durable() {
            let is_logged = value("log_bin").eq_ignore_ascii_case("ON");
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
        session.server.set_galera(variables.is_galera());
        if variables.is_galera() {
            session.execute(GALERA_SESSION).await?;
        }
        Ok(Self { expression: variables.expression(), not_rising })
    }

    /// What the other hosts of `mysql.host` are beside the one that is connected, which has this identity.
    pub(super) async fn roles_of_others<'a>(
        &self,
        session: &mut Session<'a>,
    ) -> Result<Vec<(&'a DatabaseHost, Role)>, StoreError> {
        let others = session.server.others(session.origin.host).await;
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let me: Vec<Option<String>> = session.rows(&format!("SELECT {}", self.expression)).await?;
        let me = me.into_iter().next().flatten().unwrap_or_default();
        let role = |answer: Result<Stance, String>| match answer {
            Err(why) => Role::Away(why),
            Ok(stance) if stance.identity == me => Role::Same,
            Ok(Stance { takes_writes: true, .. }) => Role::Writer,
            Ok(_) => Role::StandIn,
        };
        Ok(others.into_iter().map(|(other, answer)| (other, role(answer))).collect())
    }
}

/// What another host is to the one that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Another node of its cluster, or the same server by another name.
    Same,
    /// A read-only server.
    StandIn,
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
pub(super) struct Stance {
    /// The value of its [`Identity::expression`].
    pub(super) identity: String,
    pub(super) takes_writes: bool,
}

impl Stance {
    /// Asks over a connection of its own.
    pub(super) async fn ask(options: Opts) -> mysql_async::Result<Self> {
        let mut conn = Conn::new(options).await?;
        let variables = Variables(conn.query(Variables::QUERY).await?);
        let identity: Option<Option<String>> = conn.query_first(format!("SELECT {}", variables.expression())).await?;
        let takes_writes = takes_writes(&mut conn).await?;
        conn.disconnect().await?;
        Ok(Self { identity: identity.flatten().unwrap_or_default(), takes_writes })
    }
}

/// Whether the server that is connected is nobody's read-only replica. An account with every privilege may write to one all
/// the same.
pub(super) async fn takes_writes(conn: &mut impl Queryable) -> mysql_async::Result<bool> {
    // `super_read_only` sets it too. MariaDB 12 has more values than ON and OFF.
    let read_only: Option<String> = conn.query_first("SELECT @@global.read_only").await?;
    Ok(matches!(read_only.as_deref(), Some("0" | "OFF")))
}
