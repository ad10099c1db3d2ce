//! Work of a start that takes long and that other work need not wait for.

use std::{panic, sync::mpsc, thread};

/// A value that a thread makes.
pub struct Meanwhile<T> {
    thread: Option<thread::JoinHandle<T>>,
    made: Option<T>,
}

impl<T: Send + 'static> Meanwhile<T> {
    /// Begins to make it. Without a thread it is made at once.
    pub fn begin<I: Send + 'static>(of: I, make: fn(I) -> T) -> Self {
        let (sender, receiver) = mpsc::channel();
        let work = move || make(receiver.recv().expect("it is sent to a thread that runs"));
        match thread::Builder::new().spawn(work) {
            Ok(thread) => {
                let _received = sender.send(of);
                Self { thread: Some(thread), made: None }
            }
            Err(_) => Self { thread: None, made: Some(make(of)) },
        }
    }

    /// The value; waits for it. A panic of the thread goes on here.
    pub fn ready(&mut self) -> &mut T {
        let made = self
            .thread
            .take()
            .map(|thread| thread.join().unwrap_or_else(|reason| panic::resume_unwind(reason)));
        let made = made.or_else(|| self.made.take());
        self.made.insert(made.expect("a thread made it, or it was made at once"))
    }

    /// The same, for good.
    pub fn take(mut self) -> T {
        self.ready();
        self.made.expect("it is ready")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_there_when_it_is_asked_for() {
        let mut sum = Meanwhile::begin(vec![1, 2], |numbers| numbers.iter().sum::<i32>());
        *sum.ready() += 1;
        assert_eq!((*sum.ready(), sum.take()), (4, 4));
    }

    #[test]
    #[should_panic(expected = "no value")]
    fn a_panic_goes_on_where_the_value_is_asked_for() {
        Meanwhile::begin((), |()| panic!("no value")).take();
    }
}
