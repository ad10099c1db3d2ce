//! The one place of this crate with `unsafe`: the promise that the shared structures are plain
//! bytes, which lets aya copy them to and from the kernel.

use crate::{
    Budget, ConnectionKey, Event, Flow, GrantEntry, HostKey, LastCounted, LastHere, PlaceKey,
    PortCounters, PortRule, PrefixV4, PrefixV6, Settings, Slot,
};

macro_rules! pod {
    ($($name:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)`, made of integers and byte arrays only, every padding byte is a named
        // field (the sizes are asserted beside each definition), and every bit pattern is valid.
        unsafe impl aya::Pod for $name {}
    )*};
}

pod!(
    Budget,
    ConnectionKey,
    Event,
    Flow,
    GrantEntry,
    HostKey,
    LastCounted,
    LastHere,
    PlaceKey,
    PortCounters,
    PortRule,
    PrefixV4,
    PrefixV6,
    Settings,
    Slot,
);
