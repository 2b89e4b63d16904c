//! The headers of a record that was read. rdkafka's own way panics at a name that is not UTF-8, and a foreign producer
//! may have written anything.

use std::{ffi::CStr, ptr, slice};

use rdkafka::message::BorrowedMessage;
use rdkafka_sys::{
    rd_kafka_header_get_all, rd_kafka_message_headers,
    rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
};

/// Names and values, in their order.
pub fn headers<'m>(
    record: &'m BorrowedMessage<'_>,
) -> impl Iterator<Item = (&'m [u8], Option<&'m [u8]>)> {
    let mut list = ptr::null_mut();
    #[expect(
        unsafe_code,
        reason = "the record is borrowed; librdkafka writes nothing but the pointer"
    )]
    let found = unsafe { rd_kafka_message_headers(record.ptr(), &raw mut list) };
    let has_headers = found == RD_KAFKA_RESP_ERR_NO_ERROR;
    (0..).map_while(move |index| {
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        if !has_headers {
            return None;
        }
        #[expect(
            unsafe_code,
            reason = "the list belongs to the borrowed record; past its end it is an error"
        )]
        let found = unsafe {
            rd_kafka_header_get_all(list, index, &raw mut name, &raw mut value, &raw mut length)
        };
        if found != RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        #[expect(
            unsafe_code,
            reason = "librdkafka ends names with a 0; both live as long as the record"
        )]
        let header = unsafe {
            let value =
                (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), length));
            (CStr::from_ptr(name).to_bytes(), value)
        };
        Some(header)
    })
}
