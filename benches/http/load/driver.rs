//! One thread of the generator: it sends what is due, reads what has come, and sleeps in between.
//!
//! epoll's time-outs are whole milliseconds, and a thread that looked at the clock all the time would take a processor
//! from the servers. So in an open loop a `timerfd` ends the sleep: it is exact to microseconds.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

use super::{Clock, Outcome, Pace, Plan, TIMEOUT, connect, nanoseconds};
use crate::ids::MOST_PIECES;
use crate::protocol::{Dialogue, Found};

/// Stands for the timer among the numbers of the connections.
const TIMER: Token = Token(usize::MAX);

/// The most that is read at once, of all connections' answers.
const BUFFER_BYTES: usize = 256 << 10;

/// How long a thread sleeps at most, so that it notices the end when nothing comes any more.
const NAP: Duration = Duration::from_millis(50);

/// One connection.
pub struct Line {
    stream: TcpStream,
    dialogue: Dialogue,
    /// What is sent at a time: the plan's depth of requests.
    requests: Vec<u8>,
    /// How much of them is not sent yet.
    unsent: usize,
    /// How many are not answered yet.
    unanswered: usize,
    /// When those were due, and when the last ones before them were answered.
    due: u64,
    free_since: u64,
    /// When further ones were due, which wait for the connection.
    waiting: VecDeque<u64>,
    /// The beginning of an answer whose rest has not come.
    part: Vec<u8>,
    is_broken: bool,
}

impl Line {
    /// A connection that is logged in; what was answered meanwhile adds to `ids`.
    pub fn open(plan: &Plan, ids: &mut Vec<Range<u64>>) -> io::Result<Self> {
        let mut stream = connect(plan.port)?;
        let (request, dialogue) = plan.protocol.begin(&mut stream, ids)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            dialogue,
            requests: request.repeat(plan.depth),
            unsent: 0,
            unanswered: 0,
            due: 0,
            free_since: 0,
            waiting: VecDeque::new(),
            part: Vec::new(),
            is_broken: false,
        })
    }

    /// Sends what is not sent yet, as far as the connection takes it.
    fn write(&mut self) -> io::Result<()> {
        while self.unsent > 0 {
            match self.stream.write(&self.requests[self.requests.len() - self.unsent..]) {
                Ok(written) => self.unsent -= written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A thread's own.
pub struct Driver {
    poll: Poll,
    timer: OwnedFd,
    clock: Clock,
    lines: Vec<Line>,
    depth: usize,
    /// Between two sendings, in nanoseconds, and when the first is due; `None` in a closed loop.
    schedule: Option<(f64, f64)>,
    /// How many sendings of the schedule are done.
    turn: u64,
    buffer: Vec<u8>,
    pieces: Vec<Range<u64>>,
    outcome: Outcome,
}

impl Driver {
    pub fn new(plan: &Plan, clock: Clock, mut lines: Vec<Line>, number: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (number, line) in lines.iter_mut().enumerate() {
            poll.registry().register(&mut line.stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        }
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let schedule = match plan.pace {
            Pace::Closed => None,
            // The threads take turns.
            Pace::Open(rate) => {
                let interval = 1e9 * plan.depth as f64 / rate;
                Some((interval * plan.threads as f64, interval * number as f64))
            }
        };
        Ok(Self {
            poll,
            timer,
            clock,
            lines,
            depth: plan.depth,
            schedule,
            turn: 0,
            buffer: vec![0; BUFFER_BYTES],
            pieces: Vec::new(),
            outcome: Outcome::new(),
        })
    }

    /// Runs from the clock's beginning to the last answer.
    pub fn run(mut self) -> Outcome {
        std::thread::sleep(self.clock.start.saturating_duration_since(std::time::Instant::now()));
        if self.schedule.is_none() {
            for number in 0..self.lines.len() {
                let now = self.clock.now();
                self.send(number, now, now);
            }
        }
        let mut events = Events::with_capacity(1024);
        let mut armed_for = None;
        loop {
            let next = self.send_what_is_due();
            let now = self.clock.now();
            if now >= self.clock.measured.end && self.is_done(now) {
                break;
            }
            if let Some(due) = next
                && armed_for != Some(due)
            {
                self.arm(due.saturating_sub(now));
                armed_for = Some(due);
            }
            match self.poll.poll(&mut events, Some(NAP)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.expect("epoll works"),
            }
            for event in &events {
                if event.token() != TIMER {
                    self.serve(event.token().0, event.is_read_closed());
                }
            }
        }
        self.outcome.seen.add(self.pieces);
        self.outcome
    }

    /// Sends all that is due by the schedule; when the next is.
    fn send_what_is_due(&mut self) -> Option<u64> {
        let (interval, first) = self.schedule?;
        loop {
            let due = (interval.mul_add(self.turn as f64, first)) as u64;
            if due >= self.clock.measured.end {
                return None;
            }
            let now = self.clock.now();
            if due > now {
                return Some(due);
            }
            let number = usize::try_from(self.turn % self.lines.len() as u64).expect("less than their number");
            self.turn += 1;
            let line = &mut self.lines[number];
            if line.unanswered > 0 {
                line.waiting.push_back(due);
            } else {
                self.send(number, due, now);
            }
        }
    }

    /// Wakes this thread after so many nanoseconds.
    fn arm(&self, after: u64) {
        let nanoseconds = i64::try_from(after.max(1)).unwrap_or(i64::MAX);
        let it_value = Timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).expect("a timer can be set");
    }

    /// Whether nothing is to be waited for any more; what was never answered is an error.
    fn is_done(&mut self, now: u64) -> bool {
        let is_busy = |line: &&mut Line| !line.is_broken && (line.unanswered > 0 || !line.waiting.is_empty());
        if now < self.clock.measured.end + nanoseconds(TIMEOUT) {
            return !self.lines.iter_mut().any(|line| is_busy(&line));
        }
        for line in self.lines.iter_mut().filter(is_busy) {
            let missing = line.unanswered + self.depth * line.waiting.len();
            self.outcome.errors += missing as u64;
            self.outcome.first_error.get_or_insert_with(|| format!("no answer within {TIMEOUT:?}"));
        }
        true
    }

    /// Sends a connection's next requests, which were `due`.
    fn send(&mut self, number: usize, due: u64, now: u64) {
        let line = &mut self.lines[number];
        if line.is_broken {
            self.outcome.errors += self.depth as u64;
            return;
        }
        line.due = due;
        line.unanswered = self.depth;
        line.unsent = line.requests.len();
        if self.clock.measured.contains(&due) {
            let late = now.saturating_sub(due.max(line.free_since));
            self.outcome.lateness.saturating_record(late);
        }
        if let Err(error) = line.write() {
            self.broke(number, &error.to_string());
        }
    }

    /// A connection can be read or written; if it `is_closed`, what is left is read.
    fn serve(&mut self, number: usize, is_closed: bool) {
        if self.lines[number].unsent > 0
            && let Err(error) = self.lines[number].write()
        {
            return self.broke(number, &error.to_string());
        }
        loop {
            let line = &mut self.lines[number];
            if line.is_broken {
                return;
            }
            // What was left of the last reading stands before what is read now.
            let kept = line.part.len();
            self.buffer[..kept].copy_from_slice(&line.part);
            line.part.clear();
            match line.stream.read(&mut self.buffer[kept..]) {
                Ok(0) => return self.broke(number, "the server closed the connection"),
                Ok(read) => {
                    self.take_in(number, kept + read);
                    // Less than there was room for: nothing more has come, and epoll tells when it does. It does not tell
                    // of the end, where that came with the last bytes.
                    if kept + read < self.buffer.len() && !is_closed {
                        return;
                    }
                }
                Err(error) => {
                    self.lines[number].part.extend_from_slice(&self.buffer[..kept]);
                    match error.kind() {
                        ErrorKind::WouldBlock => return,
                        ErrorKind::Interrupted => {}
                        _ => return self.broke(number, &error.to_string()),
                    }
                }
            }
        }
    }

    /// Reads the answers in the first `filled` bytes of the buffer, and sends the next requests once all have come.
    fn take_in(&mut self, number: usize, filled: usize) {
        let now = self.clock.now();
        let line = &mut self.lines[number];
        let in_time = self.clock.measured.contains(&now);
        let is_measured = self.clock.measured.contains(&line.due);
        let mut at = 0;
        while at < filled {
            let had = self.pieces.len();
            let bytes = &self.buffer[at..filled];
            let (length, is_good) = match line.dialogue.read(bytes, &mut self.pieces) {
                Found::Part if bytes.len() == self.buffer.len() => {
                    return self.broke(number, "an answer longer than any should be");
                }
                Found::Part => break,
                Found::Answer { length } => (length, true),
                Found::Refusal { length } => {
                    let text = || String::from_utf8_lossy(&bytes[..length]).into_owned();
                    self.outcome.error(text);
                    (length, false)
                }
            };
            at += length;
            let Some(left) = line.unanswered.checked_sub(1) else {
                return self.broke(number, "an answer that nothing was asked for");
            };
            line.unanswered = left;
            if in_time && is_good {
                self.outcome.answered += 1;
                self.outcome.ids += self.pieces[had..].iter().map(|piece| piece.end - piece.start).sum::<u64>();
            }
            if is_measured {
                self.outcome.latency.saturating_record(now.saturating_sub(line.due));
            }
        }
        line.part.extend_from_slice(&self.buffer[at..filled]);
        if self.pieces.len() >= MOST_PIECES {
            self.outcome.seen.add(std::mem::take(&mut self.pieces));
        }
        if self.lines[number].unanswered == 0 {
            self.lines[number].free_since = now;
            self.send_next(number, now);
        }
    }

    /// A connection is free: what waited for it is sent, or in a closed loop the next.
    fn send_next(&mut self, number: usize, now: u64) {
        let due = match self.schedule {
            Some(_) => self.lines[number].waiting.pop_front(),
            None => (now < self.clock.measured.end).then_some(now),
        };
        if let Some(due) = due {
            self.send(number, due, self.clock.now());
        }
    }

    fn broke(&mut self, number: usize, why: &str) {
        let line = &mut self.lines[number];
        line.is_broken = true;
        // What it was to be answered, or would have been: at least one error.
        let missing = (line.unanswered + self.depth * line.waiting.len()).max(1);
        self.outcome.errors += missing as u64;
        self.outcome.first_error.get_or_insert_with(|| why.to_owned());
    }
}
