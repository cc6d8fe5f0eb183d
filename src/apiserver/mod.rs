//! The apiserver room.

pub mod auth;
pub mod join;
pub mod serve;
