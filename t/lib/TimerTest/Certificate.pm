package TimerTest::Certificate;

# A self-signed certificate, made with openssl.

use strict;
use warnings;

use Carp qw( croak );
use Exporter qw( import );
use TimerTest;

our @EXPORT = qw( make_certificate );

# Answers the paths of the certificate and of its key, in a directory.
sub make_certificate {
    my ( $dir, $name ) = @_;

    my ( $cert, $key ) = ( "$dir/$name.crt", "$dir/$name.key" );
    my ( $status, $out ) = run_command(
        qw( openssl req -x509 -newkey rsa:2048 -nodes -days 30 ),
        '-subj', "/CN=$name", '-addext', "subjectAltName=DNS:$name", '-keyout', $key, '-out', $cert,
    );
    croak "openssl: $out" if $status ne '0';
    return ( $cert, $key );
}

1;
