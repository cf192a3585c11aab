//! The signals that are sent to a server, by terminals, supervisors, container runtimes and logrotate: each drains it, cuts it off,
//! or does nothing but a line in the log. None ends it without a word.

use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A second interrupt within this belongs to the first: a terminal sends one to the whole group, and its leader passes it on.
const ONE_INTERRUPT: Duration = Duration::from_secs(1);

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// End politely. It may be repeated.
    Terminate,
    /// End politely; once more, a while later: at once.
    Interrupt,
    /// The terminal is gone; without one, read the configuration again or reopen the log, which is nothing here.
    HangUp,
    /// Nothing.
    Nothing,
}

/// `SIGRTMIN + 3` of glibc and musl is what systemd, as a container's process 1, takes for "halt".
const HALT: i32 = 37;

const SIGNALS: [(&str, Kind, Meaning); 8] = [
    ("SIGTERM", SignalKind::terminate, Meaning::Terminate),
    ("SIGINT", SignalKind::interrupt, Meaning::Interrupt),
    ("SIGQUIT", SignalKind::quit, Meaning::Interrupt),
    ("SIGRTMIN+3", || SignalKind::from_raw(HALT), Meaning::Terminate),
    ("SIGHUP", SignalKind::hangup, Meaning::HangUp),
    ("SIGUSR1", SignalKind::user_defined1, Meaning::Nothing),
    ("SIGUSR2", SignalKind::user_defined2, Meaning::Nothing),
    ("SIGALRM", SignalKind::alarm, Meaning::Nothing),
];

type Kind = fn() -> SignalKind;

/// Those that come.
pub(super) struct Signals {
    come: mpsc::Receiver<(&'static str, Meaning)>,
    draining_since: Option<Instant>,
    has_terminal: bool,
}

impl Signals {
    /// Catches them from now on.
    pub(super) fn new() -> io::Result<Self> {
        // Room for one of each: one more of a kind that waits says nothing new.
        let (send, come) = mpsc::channel(SIGNALS.len());
        for (name, kind, meaning) in SIGNALS {
            let (mut signal, send) = (signal(kind())?, send.clone());
            tokio::spawn(async move {
                // It waits for room, so that none of another kind is lost. Meanwhile its own are counted as one.
                while signal.recv().await.is_some() && send.send((name, meaning)).await.is_ok() {}
            });
        }
        let has_terminal = io::stdin().is_terminal() || io::stderr().is_terminal();
        Ok(Self { come, draining_since: None, has_terminal })
    }

    /// Waits for one that ends the server politely. Its name.
    pub(super) async fn drain(&mut self) -> &'static str {
        loop {
            let (name, meaning) = self.next().await;
            if meaning == Meaning::Nothing || (meaning == Meaning::HangUp && !self.has_terminal) {
                tracing::info!(
                    "{name} is ignored: there is no log file to reopen, and the configuration is read at the start alone"
                );
                continue;
            }
            self.draining_since = Some(Instant::now());
            return name;
        }
    }

    /// Waits for one that ends a draining server at once. Its name.
    pub(super) async fn cut_off(&mut self) -> &'static str {
        let since = *self.draining_since.get_or_insert_with(Instant::now);
        loop {
            let (name, meaning) = self.next().await;
            if meaning == Meaning::Interrupt && since.elapsed() >= ONE_INTERRUPT {
                return name;
            }
            tracing::info!(
                "{name} is ignored: draining already. SIGINT ends the server at once, from 1 s after the first signal"
            );
        }
    }

    async fn next(&mut self) -> (&'static str, Meaning) {
        match self.come.recv().await {
            Some(come) => come,
            // The tasks that send end with the runtime.
            None => std::future::pending().await,
        }
    }
}
