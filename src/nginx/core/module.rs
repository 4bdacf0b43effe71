//! The configurations of modules, and the places in which nginx keeps them.

use std::ptr::NonNull;

use ngx::core::{CoreModule, CoreModuleConfExt, NgxCoreModule};
use ngx::ffi::{
    ngx_core_conf_t, ngx_cycle_t, ngx_http_core_loc_conf_t, ngx_http_core_main_conf_t,
    ngx_http_core_srv_conf_t, ngx_module_t,
};
use ngx::http::{HttpModule as _, HttpModuleConfExt, NgxHttpCoreModule};

/// An http module: what it is known by, and what it keeps.
///
/// # Safety
///
/// The descriptor is a static, from which `create_main_conf` and `create_loc_conf` make
/// configurations of these types.
pub unsafe trait Module: 'static {
    /// Its configuration of the `http` block.
    type Main: Default + 'static;
    /// Its configuration of each `http`, `server` and `location` block.
    type Location: Default + 'static;

    /// Its descriptor.
    fn descriptor() -> *const ngx_module_t;
}

/// The descriptor, in which nginx has set the indices: it does so before it calls any hook.
fn descriptor<'a, M: Module>() -> &'a ngx_module_t {
    // SAFETY: the trait's promise; nginx writes to it only while it loads modules (HOST-1).
    unsafe { &*M::descriptor() }
}

/// The module's place among the http modules.
pub(in crate::nginx) fn context_index<M: Module>() -> usize {
    descriptor::<M>().ctx_index
}

/// The module's main configuration; `None` where there is no `http` block.
///
/// # Safety
///
/// `of` is one of nginx's that is there.
pub(in crate::nginx) unsafe fn main_of<M: Module>(
    of: &impl HttpModuleConfExt,
) -> Option<NonNull<M::Main>> {
    // SAFETY: the caller's promise; the type is that of the module.
    unsafe { of.http_main_conf_unchecked(descriptor::<M>()) }
}

/// The module's configuration of a location.
///
/// # Safety
///
/// As for [`main_of`].
pub(in crate::nginx) unsafe fn location_of<M: Module>(
    of: &impl HttpModuleConfExt,
) -> Option<NonNull<M::Location>> {
    // SAFETY: as above.
    unsafe { of.http_location_conf_unchecked(descriptor::<M>()) }
}

/// The main configuration of nginx's http core.
///
/// # Safety
///
/// As for [`main_of`].
pub(in crate::nginx) unsafe fn core_main(
    of: &impl HttpModuleConfExt,
) -> Option<NonNull<ngx_http_core_main_conf_t>> {
    // SAFETY: as above.
    unsafe { of.http_main_conf_unchecked(NgxHttpCoreModule::module()) }
}

/// The http core's configuration of a server.
///
/// # Safety
///
/// As for [`main_of`].
pub(in crate::nginx) unsafe fn core_server(
    of: &impl HttpModuleConfExt,
) -> Option<NonNull<ngx_http_core_srv_conf_t>> {
    // SAFETY: as above.
    unsafe { of.http_server_conf_unchecked(NgxHttpCoreModule::module()) }
}

/// The http core's configuration of a location.
///
/// # Safety
///
/// As for [`main_of`].
pub(in crate::nginx) unsafe fn core_location(
    of: &impl HttpModuleConfExt,
) -> Option<NonNull<ngx_http_core_loc_conf_t>> {
    // SAFETY: as above.
    unsafe { of.http_location_conf_unchecked(NgxHttpCoreModule::module()) }
}

/// The configuration of nginx's core.
///
/// # Safety
///
/// A complete cycle.
pub(in crate::nginx) unsafe fn core_conf(cycle: &ngx_cycle_t) -> Option<NonNull<ngx_core_conf_t>> {
    // SAFETY: the caller's promise; made by `ngx_core_module_create_conf`.
    unsafe { cycle.core_main_conf_unchecked(NgxCoreModule::module()) }
}
