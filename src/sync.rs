//! The concurrency primitives under the allocator, in two forms with one interface.
//!
//! The server gets the real ones. Under the private cfg `seqsvr_loom` (set by build.rs, see `make test-loom`)
//! the same names are stand-ins that loom can see into, so that the model checks the `segment` and `buffer`
//! that ship. What this leaves unproven is the inside of arc-swap and of tokio's `Notify`: stress tests run those.

#[cfg(not(seqsvr_loom))]
pub use real::{Arc, AtomicU64, Cached, Loaded, Notify, Ordering, Swap};
#[cfg(seqsvr_loom)]
pub use standin::{Arc, AtomicU64, Cached, Loaded, Notify, Ordering, Swap};

#[cfg(not(seqsvr_loom))]
mod real {
    pub use std::sync::Arc;
    pub use std::sync::atomic::{AtomicU64, Ordering};
    pub use tokio::sync::Notify;

    /// What [`Swap::load`] saw: keeps it alive, and is what [`Swap::replace`] compares with.
    pub type Loaded<T> = arc_swap::Guard<Arc<T>>;

    /// One shared pointer to an immutable value, replaced by compare-and-swap.
    #[derive(Debug)]
    pub struct Swap<T>(Arc<arc_swap::ArcSwap<T>>);

    impl<T> Swap<T> {
        /// Starts with `value`.
        pub fn new(value: T) -> Self {
            Self(Arc::new(arc_swap::ArcSwap::from_pointee(value)))
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

        /// One thread's own way to it.
        pub fn cached(&self) -> Cached<T> {
            Cached(arc_swap::Cache::new(self.0.clone()))
        }
    }

    /// A [`Swap`] with the value that its thread saw last: to load it is to compare two pointers, where
    /// [`Swap::load`] writes down what it lends. Keeps that value alive.
    #[derive(Debug)]
    pub struct Cached<T>(arc_swap::Cache<Arc<arc_swap::ArcSwap<T>>, Arc<T>>);

    impl<T> Cached<T> {
        /// The value of now, or one of before whose replacement this thread could not know of yet: the pointers are
        /// compared without an acquire, and a new value is loaded with one.
        #[inline]
        pub fn load(&mut self) -> &T {
            self.0.load()
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
    pub struct Swap<T>(Arc<Place<T>>);

    #[derive(Debug)]
    struct Place<T> {
        at: loom::sync::atomic::AtomicUsize,
        // A std mutex on purpose: it is book-keeping that loom should not explore.
        values: std::sync::Mutex<Vec<Arc<T>>>,
    }

    impl<T> Place<T> {
        fn value(&self, at: usize) -> Arc<T> {
            self.values.lock().expect("no thread panics while it holds this")[at].clone()
        }
    }

    impl<T> Swap<T> {
        pub fn new(value: T) -> Self {
            let values = std::sync::Mutex::new(vec![Arc::new(value)]);
            Self(Arc::new(Place { at: loom::sync::atomic::AtomicUsize::new(0), values }))
        }

        pub fn load(&self) -> Loaded<T> {
            self.0.value(self.0.at.load(Ordering::Acquire))
        }

        pub fn replace(&self, seen: &Loaded<T>, new: T) -> bool {
            let (seen_at, new_at) = {
                let mut values = self.0.values.lock().expect("no thread panics while it holds this");
                let seen_at = values.iter().position(|value| Arc::ptr_eq(value, seen));
                values.push(Arc::new(new));
                (seen_at.expect("it was loaded from here"), values.len() - 1)
            };
            self.0.at.compare_exchange(seen_at, new_at, Ordering::AcqRel, Ordering::Acquire).is_ok()
        }

        pub fn cached(&self) -> Cached<T> {
            let at = self.0.at.load(Ordering::Acquire);
            Cached { place: self.0.clone(), at, value: self.0.value(at) }
        }
    }

    /// As arc-swap's `Cache`: compared relaxed, loaded anew with an acquire.
    #[derive(Debug)]
    pub struct Cached<T> {
        place: Arc<Place<T>>,
        at: usize,
        value: Arc<T>,
    }

    impl<T> Cached<T> {
        pub fn load(&mut self) -> &T {
            if self.place.at.load(Ordering::Relaxed) != self.at {
                self.at = self.place.at.load(Ordering::Acquire);
                self.value = self.place.value(self.at);
            }
            &self.value
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
