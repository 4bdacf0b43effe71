package TimerTest::Cases;

# Cases that come one after the other, each with timers of its own, so that what the backend has had
# of one tells nothing of another.
#
#     my $cases = TimerTest::Cases->new($backend);
#     server => $cases->timers('full')
#     $cases->goes_on( $nginx, 'full', 'after a reload' );

use strict;
use warnings;

use Test::More ();
use TimerTest;
use TimerTest::Series;

sub new {
    my ( $class, $backend ) = @_;
    return bless { backend => $backend }, $class;
}

# Timers of one case, named after it.
sub timers {
    my ( $self, $case, $more ) = @_;
    my $backend = $self->{backend};
    return timer( $backend, "$case-tick", 'every=50ms' )
        . timer( $backend, "$case-any", 'every=50ms', 'ok', 'timer_worker any;' )
        . timer( $backend, "$case-first", 'every=366d first=now' )
        . ( $more // '' );
}

# Two tests: timers of this case run in workers that were started meanwhile, and nginx serves.
sub goes_on {
    my ( $self, $nginx, $case, $title ) = @_;
    my $runs = sub { scalar $self->{backend}->requests( timer => "$case-$_[0]" ) };
    my %seen = map { $_ => $runs->($_) } qw( tick any );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = wait_until { 2 == grep { $runs->($_) >= $seen{$_} + 3 } keys %seen };
    Test::More::ok( $ok, "$title: timers run" )
        or Test::More::diag( join "\n", ( $nginx->log_lines(qr/\[(?:warn|error|crit)\]/) )[ 0 .. 9 ] );
    Test::More::is( $nginx->get('/ready')->{status}, 200, "$title: nginx serves" );
    return;
}

# How often the timer with first=now has run.
sub first_runs {
    my ( $self, $case ) = @_;
    return scalar $self->{backend}->requests( timer => "$case-first" );
}

1;
