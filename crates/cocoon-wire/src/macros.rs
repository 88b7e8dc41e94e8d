//! How a TL type is declared: a few lines each, in the scheme's order, and the codec follows from them.

/// A struct, `Name = id { fields }`, or without `= id` a group of fields that are present or absent together.
///
/// A type with a flags word is `Name = id { fields before } flags { fields after } optional { bit => field }`:
/// each optional field is an `Option`, and the bits of the word follow from which are `Some`. With
/// `flags keep field`, the word's other bits are kept in that field.
macro_rules! tl_struct {
    ($(#[$meta:meta])* $name:ident = $id:literal $($body:tt)*) => {
        tl_struct! { $(#[$meta])* $name $($body)* }

        impl $crate::codec::Boxed for $name {
            const ID: u32 = $id;
        }
    };
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::codec::Encode for $name {
            fn bare_len(&self) -> usize {
                0 $(+ self.$field.bare_len())*
            }

            fn encode(&self, _out: &mut bytes::BytesMut) {
                $(self.$field.encode(_out);)*
            }
        }

        impl $crate::codec::Decode for $name {
            fn decode(_r: &mut $crate::codec::Reader) -> Result<Self, $crate::codec::DecodeError> {
                $(let $field = $crate::codec::Decode::decode(_r)?;)*
                Ok(Self { $($field),* })
            }
        }

        tl_debug! { $name { $($field)* } }
    };
    ($(#[$meta:meta])* $name:ident {
        $($(#[$head_meta:meta])* $head:ident: $head_type:ty),* $(,)?
    } flags $(keep $(#[$keep_meta:meta])* $keep:ident)? {
        $($(#[$body_meta:meta])* $body:ident: $body_type:ty),* $(,)?
    } optional {
        $($bit:literal => $(#[$opt_meta:meta])* $opt:ident: $opt_type:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq)]
        pub struct $name {
            $($(#[$head_meta])* pub $head: $head_type,)*
            $($(#[$keep_meta])* pub $keep: u32,)?
            $($(#[$body_meta])* pub $body: $body_type,)*
            $($(#[$opt_meta])* pub $opt: Option<$opt_type>,)*
        }

        impl $crate::codec::Encode for $name {
            fn bare_len(&self) -> usize {
                4 $(+ self.$head.bare_len())*
                    $(+ self.$body.bare_len())*
                    $(+ self.$opt.as_ref().map_or(0, |value| value.bare_len()))*
            }

            fn encode(&self, out: &mut bytes::BytesMut) {
                $(self.$head.encode(out);)*
                let _of_fields = 0_u32 $(| 1 << $bit)*;
                let flags = 0_u32
                    $(| self.$keep & $crate::codec::FLAG_BITS & !_of_fields)?
                    $(| u32::from(self.$opt.is_some()) << $bit)*;
                flags.encode(out);
                $(self.$body.encode(out);)*
                $(if let Some(value) = &self.$opt {
                    value.encode(out);
                })*
            }
        }

        impl $crate::codec::Decode for $name {
            fn decode(r: &mut $crate::codec::Reader) -> Result<Self, $crate::codec::DecodeError> {
                $(let $head = $crate::codec::Decode::decode(r)?;)*
                let _of_fields = 0_u32 $(| 1 << $bit)*;
                let _flags = r.flags()?;
                $(let $keep = _flags & !_of_fields;)?
                $(let $body = $crate::codec::Decode::decode(r)?;)*
                $(let $opt = if _flags & (1 << $bit) == 0 {
                    None
                } else {
                    Some($crate::codec::Decode::decode(r)?)
                };)*
                Ok(Self { $($head,)* $($keep,)? $($body,)* $($opt,)* })
            }
        }

        tl_debug! { $name { $($head)* $($keep)? $($body)* $($opt)* } }
    };
}

/// `Debug` of a struct by [`crate::codec::Redacted`].
macro_rules! tl_debug {
    ($name:ident { $($field:ident)* }) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &$crate::codec::Shown(&self.$field)))*
                    .finish()
            }
        }

        impl $crate::codec::Redacted for $name {
            fn redacted(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}

/// A type with several constructors, always boxed.
macro_rules! tl_union {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $id:literal $({
            $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)?
        })?),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant $({ $($(#[$field_meta])* $field: $type),* })?),*
        }

        impl $crate::codec::Encode for $name {
            fn bare_len(&self) -> usize {
                match self {
                    $(Self::$variant $({ $($field),* })? => 4 $($(+ $field.bare_len())*)?,)*
                }
            }

            fn encode(&self, out: &mut bytes::BytesMut) {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        $crate::codec::Encode::encode(&($id as u32), out);
                        $($($field.encode(out);)*)?
                    })*
                }
            }
        }

        impl $crate::codec::Decode for $name {
            fn decode(r: &mut $crate::codec::Reader) -> Result<Self, $crate::codec::DecodeError> {
                match r.u32()? {
                    $($id => Ok(Self::$variant $({ $($field: $crate::codec::Decode::decode(r)?),* })?),)*
                    other => Err($crate::codec::DecodeError::UnknownConstructor(other)),
                }
            }
        }

        impl $crate::codec::Message for $name {
            fn encoded_len(&self) -> usize {
                $crate::codec::Encode::bare_len(self)
            }

            fn encode_boxed(&self, out: &mut bytes::BytesMut) {
                $crate::codec::Encode::encode(self, out);
            }

            fn decode_boxed(data: bytes::Bytes) -> Result<Self, $crate::codec::DecodeError> {
                $crate::codec::decode_rest($crate::codec::Reader::new(data))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant $({ $($field),* })? => f
                        .debug_struct(stringify!($variant))
                        $($(.field(stringify!($field), &$crate::codec::Shown($field)))*)?
                        .finish(),)*
                }
            }
        }

        impl $crate::codec::Redacted for $name {
            fn redacted(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}

/// The messages that may come from one direction, told apart by their constructor ids.
macro_rules! tl_direction {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident($type:ty)),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant($type)),*
        }

        impl $crate::codec::Message for $name {
            fn encoded_len(&self) -> usize {
                match self {
                    $(Self::$variant(message) => message.encoded_len(),)*
                }
            }

            fn encode_boxed(&self, out: &mut bytes::BytesMut) {
                match self {
                    $(Self::$variant(message) => message.encode_boxed(out),)*
                }
            }

            fn decode_boxed(data: bytes::Bytes) -> Result<Self, $crate::codec::DecodeError> {
                let mut reader = $crate::codec::Reader::new(data);
                match reader.u32()? {
                    $(<$type as $crate::codec::Boxed>::ID => {
                        $crate::codec::decode_rest(reader).map(Self::$variant)
                    })*
                    other => Err($crate::codec::DecodeError::UnknownConstructor(other)),
                }
            }
        }

        $(impl From<$type> for $name {
            fn from(message: $type) -> Self {
                Self::$variant(message)
            }
        })*
    };
}

pub(crate) use {tl_debug, tl_direction, tl_struct, tl_union};
