package TimerTest::Certificate;

# A self-signed certificate, made with openssl; a file that uses this is skipped where there is none.

use strict;
use warnings;

use Carp qw( croak );
use Exporter ();
use Test::More ();
use TimerTest;

our @EXPORT = qw( make_certificate );

sub import {
    Test::More::plan( skip_all => 'openssl is not installed' ) if !$^C && !program('openssl');
    goto &Exporter::import;
}

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
