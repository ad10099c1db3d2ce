//! The gate's own programs, with the tables and settings that the agent makes.

use std::{any::Any, cell::RefCell, rc::Rc};

use aya::programs::XdpMode;
use jit_common::{Counter, Reason};

use super::Filter;
use crate::{
    kernel::{Kernel, Loaded, xdp_programs},
    live::{INTERFACE, Lane},
};

/// Where the gate is attached.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// XDP in the driver.
    Native,
    /// TC, without XDP.
    Tc,
    /// XDP above the driver.
    Generic,
}

/// The gate of these programs. Other hosts may have it at the same time: the counters are those of
/// all.
pub fn gate(name: &'static str, kernel: &Rc<RefCell<Kernel>>, hook: Hook) -> Filter {
    let lane = Lane::new();
    let program = xdp_programs().last().expect("an XDP program");
    let index = lane.host.index(INTERFACE);
    let loaded: &mut Loaded = &mut kernel.borrow_mut();
    let link = lane.host.run(|| -> Box<dyn Any + Send> {
        match hook {
            Hook::Native => Box::new(loaded.attach(program, index, XdpMode::Driver)),
            Hook::Generic => Box::new(loaded.attach(program, index, XdpMode::Skb)),
            Hook::Tc => loaded.attach_tc(INTERFACE),
        }
    });
    let kernel = Rc::clone(kernel);
    Filter::new(name, lane, link, move |_| {
        let denied = Counter::Reason(Reason::Denied).index() as usize;
        kernel.borrow().counters().get(denied).copied().expect("a counter")
    })
}
