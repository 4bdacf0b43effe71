//! Trait objects that are seen as what they are: Rust casts them by itself from 1.86 on.

use std::any::Any;
use std::rc::Rc;

/// Anything that borrows nothing.
pub trait AsAny: Any {
    /// The same, of a type that can be asked for.
    fn as_any(&self) -> &dyn Any;

    /// The same of a counted one.
    fn into_any(self: Rc<Self>) -> Rc<dyn Any>;
}

impl<T: Any> AsAny for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }
}
