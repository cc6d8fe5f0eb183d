//! The apiserver room.

pub mod auth;
pub mod codec;
pub mod join;
pub mod patch;
pub mod serve;
