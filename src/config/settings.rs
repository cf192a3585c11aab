//! The settings as text, each with its key: what `seqsvr check` prints.

use super::{Config, Store};

impl Config {
    /// Each key (`mysql.host`) and its value, in the order of the shipped `config.yml`. Secrets are masked.
    pub fn settings(&self) -> Vec<(String, String)> {
        let Self { port, step, store, data_dir, refill, sequences, limits, shutdown, log } = self;
        let mut settings: Vec<(String, String)> = Vec::new();
        let mut add = |key: &str, value: String| settings.push((key.to_owned(), value));
        add("port", port.to_string());
        add("step", step.get().to_string());
        match store {
            Store::Embedded => add("store", "embedded".to_owned()),
            Store::MySql(mysql) => {
                let file = |file: &Option<std::path::PathBuf>| {
                    file.as_ref().map_or_else(String::new, |file| file.display().to_string())
                };
                add("store", "mysql".to_owned());
                add("mysql.user", mysql.user.clone());
                match &mysql.password_file {
                    Some(_) => add("mysql.password_file", file(&mysql.password_file)),
                    None => add("mysql.password", format!("{:?}", mysql.password)),
                }
                add("mysql.host", mysql.host.to_string());
                add("mysql.database", mysql.database.clone());
                add("mysql.ssl_mode", mysql.ssl_mode.to_string());
                add("mysql.ssl_ca", file(&mysql.ssl_ca));
                add("mysql.ssl_cert", file(&mysql.ssl_cert));
                add("mysql.ssl_key", file(&mysql.ssl_key));
                add("mysql.failover_skip", mysql.failover_skip.get().to_string());
                add("mysql.require_durable", mysql.require_durable.0.to_string());
            }
        }
        add("data_dir", data_dir.display().to_string());
        for new in sequences {
            let key = |key: &str| format!("sequences.{}.{key}", new.name);
            add(&key("step"), new.step.get().to_string());
            add(&key("first_id"), new.first_id.to_string());
            add(&key("max_id"), new.max_id.to_string());
            add(&key("description"), new.description.clone());
        }
        add("refill.threshold", refill.threshold.get().to_string());
        add("refill.runway", format!("{:?}", refill.runway));
        add("refill.max_block", refill.max_block.get().to_string());
        add("limits.wait", format!("{:?}", limits.wait));
        add("limits.waiters", limits.waiters.get().to_string());
        add("limits.batch", limits.batch.get().to_string());
        add("limits.range", limits.range.get().to_string());
        add("limits.connections", limits.connections.get().to_string());
        add("limits.keep_alive", format!("{:?}", limits.keep_alive));
        add("limits.request", format!("{:?}", limits.request));
        add("shutdown.lead", format!("{:?}", shutdown.lead));
        add("shutdown.grace", format!("{:?}", shutdown.grace));
        add("log.level", log.level.to_string());
        add("log.format", log.format.to_string());
        settings
    }
}
