//! What systemd is told of the server, by the protocol of `sd_notify`: that it listens, that it drains, that it is alive.
//!
//! Whatever starts it with a `NOTIFY_SOCKET` in the environment is told so. Without one, nothing is done.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::interval;

/// However short the watchdog's time is: to tell it more often would be a load.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// Told once it listens, whether or not it has ids: a database that is away at the start must not make the start time out.
pub fn ready(urls: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {urls}"))]);
}

/// Told when it begins to drain.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Tells the watchdog, where there is one, twice in its time that the runtime which leases still runs what is due.
pub async fn keep_alive() {
    let Some(time) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval((time / 2).max(LEAST_PAUSE));
    loop {
        ticks.tick().await;
        // Without an answer systemd ends it, and says why.
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}

fn tell(what: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!("systemd can't be told {what:?} by NOTIFY_SOCKET: {error}");
    }
}
