//! The addresses of a database's host name: how they are looked up, and which one is connected to.
//!
//! One address may be silent while another one answers, as of a machine that is down, or of IPv6 that leads nowhere. So several
//! addresses are tried side by side, each a moment after the one before it ("Happy Eyeballs", RFC 8305).

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long an address has for itself before the next one is tried too: RFC 8305, section 8.
const STAGGER: Duration = Duration::from_millis(250);

/// The addresses of `host`, in the order in which to try them.
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let addresses = lookup_host((host, port)).await?;
    Ok(in_turns(addresses.map(|address| SocketAddr::ip(&address))))
}

/// Takes the families in turns, beginning with the first address's, and each address once: where one family leads nowhere, the
/// other one is next.
fn in_turns(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut preferred: Vec<IpAddr> = Vec::new();
    let mut others: Vec<IpAddr> = Vec::new();
    for address in addresses {
        let is_preferred = preferred.first().is_none_or(|first| first.is_ipv4() == address.is_ipv4());
        let family = if is_preferred { &mut preferred } else { &mut others };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [preferred.next(), others.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// Connects to the first of `addresses` that answers within `limit`, in which each gets its turn. Every address but the last
/// has a head start over the next one, which ends early if it fails. An error that `is_answer` ends the race.
///
/// Returns the error of the last one that failed if none answers, and `None` if there are no addresses.
pub(super) async fn race<T, E, F: Future<Output = Result<T, E>>>(
    addresses: &[IpAddr],
    limit: Duration,
    connect: impl Fn(IpAddr) -> F,
    is_answer: impl Fn(&E) -> bool,
) -> Option<Result<T, E>> {
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let head_start = STAGGER.min(limit / 2 / count);
    let mut waiting = addresses.iter();
    let mut running = Vec::new();
    let mut failed = None;
    loop {
        match waiting.next() {
            Some(address) => running.push(Box::pin(connect(*address))),
            None if running.is_empty() => return failed,
            None => {}
        }
        let ended = if waiting.len() > 0 {
            timeout(head_start, first_of(&mut running)).await.ok()
        } else {
            Some(first_of(&mut running).await)
        };
        match ended {
            Some(Err(error)) if !is_answer(&error) => failed = Some(Err(error)),
            Some(answer) => return Some(answer),
            None => {}
        }
    }
}

/// Waits for the first of `futures` that ends, and removes it.
async fn first_of<F: Future>(futures: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|context| {
        for (i, future) in futures.iter_mut().enumerate() {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                drop(futures.swap_remove(i));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// An address ending in `.1` or `:1` is silent, in 2 refuses at once, in 3 answers at once, in 4 after 400 ms, in 5 with an
    /// error.
    async fn connect(address: IpAddr) -> Result<IpAddr, &'static str> {
        match address.to_string().chars().last() {
            Some('1') => pending().await,
            Some('2') => Err("refused"),
            Some('3') => Ok(address),
            Some('4') => {
                sleep(Duration::from_millis(400)).await;
                Ok(address)
            }
            _ => Err("answer"),
        }
    }

    /// Who wins, and after how many milliseconds.
    async fn winner(texts: &[&str]) -> (Option<Result<String, &'static str>>, u128) {
        let began = Instant::now();
        let outcome = race(&addresses(texts), LIMIT, connect, |error| *error == "answer").await;
        (outcome.map(|outcome| outcome.map(|address| address.to_string())), began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_answers_wins() {
        for (texts, wins, after) in [
            (&["10.0.0.3", "10.0.1.3"][..], Ok("10.0.0.3"), 0),
            (&["::1", "10.0.0.3"], Ok("10.0.0.3"), 250),
            (&["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.0.3"], Ok("10.0.0.3"), 750),
            // What fails passes on its head start.
            (&["10.0.0.2", "10.0.1.2", "10.0.0.3"], Ok("10.0.0.3"), 0),
            // Slow is not silent.
            (&["10.0.0.4", "10.0.0.1"], Ok("10.0.0.4"), 400),
            (&["10.0.0.4", "10.0.1.4"], Ok("10.0.0.4"), 400),
            (&["10.0.0.2", "10.0.1.2"], Err("refused"), 0),
            (&["10.0.0.5", "10.0.0.3"], Err("answer"), 0),
            (&["10.0.0.1", "10.0.0.5", "10.0.0.3"], Err("answer"), 250),
        ] {
            let wins = Some(wins.map(str::to_owned));
            let (found, time) = winner(texts).await;
            // The timer's grain is a millisecond.
            assert!(found == wins && time.abs_diff(after) < 5, "{texts:?}: {found:?} after {time} ms");
        }
        assert_eq!(winner(&[]).await.0, None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_many_addresses_has_its_turn() {
        let mut texts = vec!["10.0.0.1"; 30];
        texts.push("10.0.0.3");
        let (found, time) = winner(&texts).await;
        assert!(found == Some(Ok("10.0.0.3".to_owned())) && time < LIMIT.as_millis(), "{found:?} after {time} ms");
    }

    #[test]
    fn the_families_take_turns() {
        let ordered = |texts: &[&str]| in_turns(addresses(texts).into_iter());
        assert_eq!(
            ordered(&["::1", "::2", "10.0.0.1", "10.0.0.2"]),
            addresses(&["::1", "10.0.0.1", "::2", "10.0.0.2"])
        );
        assert_eq!(ordered(&["10.0.0.1", "10.0.0.1", "10.0.0.2", "::1"]), addresses(&["10.0.0.1", "::1", "10.0.0.2"]));
        assert_eq!(ordered(&[]), addresses(&[]));
    }
}
