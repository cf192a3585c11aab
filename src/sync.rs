//! The concurrency primitives under the allocator, in two forms with one interface.
//!
//! The server gets the real ones. Under the private cfg `seqsvr_loom` (set by build.rs, see `make test-loom`)
//! the same names are stand-ins that loom can see into, so that the model checks the `segment` and `buffer`
//! that ship. What this leaves unproven is the inside of arc-swap and of tokio's `Notify`: stress tests run those.

#[cfg(not(seqsvr_loom))]
pub use real::{Arc, AtomicU64, Loaded, Notify, Ordering, Swap};
#[cfg(seqsvr_loom)]
pub use standin::{Arc, AtomicU64, Loaded, Notify, Ordering, Swap};

#[cfg(not(seqsvr_loom))]
mod real {
    pub use std::sync::Arc;
    pub use std::sync::atomic::{AtomicU64, Ordering};
    pub use tokio::sync::Notify;

    /// What [`Swap::load`] saw: keeps it alive, and is what [`Swap::replace`] compares with.
    pub type Loaded<T> = arc_swap::Guard<Arc<T>>;

    /// One shared pointer to an immutable value, replaced by compare-and-swap.
    #[derive(Debug)]
    pub struct Swap<T>(arc_swap::ArcSwap<T>);

    impl<T> Swap<T> {
        /// Starts with `value`.
        pub fn new(value: T) -> Self {
            Self(arc_swap::ArcSwap::from_pointee(value))
        }

        /// The value of now. What was written before it was published is visible through it.
        #[inline]
        pub fn load(&self) -> Loaded<T> {
            self.0.load()
        }

        /// Publishes `new` if the pointer is still the one `seen`; says whether it did.
        pub fn replace(&self, seen: &Loaded<T>, new: T) -> bool {
            let before = self.0.compare_and_swap(&**seen, Arc::new(new));
            Arc::ptr_eq(&before, seen)
        }
    }
}

#[cfg(seqsvr_loom)]
mod standin {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::{AtomicU64, Ordering};

    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    /// What [`Swap::load`] saw.
    pub type Loaded<T> = Arc<T>;

    /// arc-swap's promise and no more: loads acquire, a successful compare-and-swap releases. Nothing is freed
    /// before the whole is dropped, so no pointer is ever used twice.
    #[derive(Debug)]
    pub struct Swap<T> {
        at: loom::sync::atomic::AtomicUsize,
        // A std mutex on purpose: it is book-keeping that loom should not explore.
        values: std::sync::Mutex<Vec<Arc<T>>>,
    }

    impl<T> Swap<T> {
        pub fn new(value: T) -> Self {
            Self { at: loom::sync::atomic::AtomicUsize::new(0), values: std::sync::Mutex::new(vec![Arc::new(value)]) }
        }

        pub fn load(&self) -> Loaded<T> {
            let at = self.at.load(Ordering::Acquire);
            self.values.lock().expect("no thread panics while it holds this")[at].clone()
        }

        pub fn replace(&self, seen: &Loaded<T>, new: T) -> bool {
            let (seen_at, new_at) = {
                let mut values = self.values.lock().expect("no thread panics while it holds this");
                let seen_at = values.iter().position(|value| Arc::ptr_eq(value, seen));
                values.push(Arc::new(new));
                (seen_at.expect("it was loaded from here"), values.len() - 1)
            };
            self.at.compare_exchange(seen_at, new_at, Ordering::AcqRel, Ordering::Acquire).is_ok()
        }
    }

    /// What is used of tokio's `Notify`, with its promise: a future from `notified()` gets every `notify_waiters()`
    /// that comes after it was *made*, polled or not.
    #[derive(Debug, Default)]
    pub struct Notify(loom::sync::Mutex<Inner>);

    #[derive(Debug, Default)]
    struct Inner {
        generation: u64,
        wakers: Vec<Waker>,
    }

    impl Notify {
        pub fn new() -> Self {
            Self(loom::sync::Mutex::new(Inner::default()))
        }

        pub fn notify_waiters(&self) {
            let mut inner = self.0.lock().unwrap();
            inner.generation += 1;
            let wakers = std::mem::take(&mut inner.wakers);
            drop(inner);
            wakers.into_iter().for_each(Waker::wake);
        }

        pub fn notified(&self) -> Notified<'_> {
            let made = self.0.lock().unwrap().generation;
            Notified { notify: self, made }
        }
    }

    pub struct Notified<'a> {
        notify: &'a Notify,
        made: u64,
    }

    impl Future for Notified<'_> {
        type Output = ();
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let mut inner = self.notify.0.lock().unwrap();
            if inner.generation != self.made {
                return Poll::Ready(());
            }
            inner.wakers.push(cx.waker().clone());
            Poll::Pending
        }
    }
}
