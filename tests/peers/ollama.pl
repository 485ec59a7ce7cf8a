#!/usr/bin/perl
# What Ollama answers to Chat Completions, as far as one turn needs it: one model, which says one sentence. It stands in for
# the image of the compose file's profile `local`, which cannot be downloaded where tests run; nothing but Perl is needed.
use strict;
use warnings;
use IO::Socket::INET;

my $listener = IO::Socket::INET->new(LocalPort => 11434, Listen => 16, ReuseAddr => 1) or die "no port: $!";
$SIG{TERM} = sub { exit 0 };
$SIG{PIPE} = 'IGNORE';
while (my $client = $listener->accept) {
  my ($line, $length) = (scalar <$client> // '', 0);
  while (defined(my $header = <$client>)) {
    $length = $1 if $header =~ /^content-length:\s*(\d+)/i;
    last if $header =~ /^\r?\n$/;
  }
  read $client, my $body, $length if $length;
  my ($status, $type, $answer) = ('404 Not Found', 'application/json', '{"error": {"message": "not here"}}');
  if ($line =~ m{^GET /v1/models }) {
    ($status, $answer) = ('200 OK', '{"object": "list", "data": [{"id": "tiny:1b", "object": "model", "owned_by": "library"}]}');
  } elsif ($line =~ m{^POST /v1/chat/completions } && $body =~ /"model":\s*"tiny:1b"/) {
    my $chunk = '{"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny:1b", "choices": [%s]}';
    my @choices = (
      '{"index": 0, "delta": {"role": "assistant", "content": "Said beside you."}, "finish_reason": null}',
      '{"index": 0, "delta": {}, "finish_reason": "stop"}',
    );
    ($status, $type) = ('200 OK', 'text/event-stream');
    $answer = join '', map({ 'data: ' . sprintf($chunk, $_) . "\n\n" } @choices), "data: [DONE]\n\n";
  }
  printf $client "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", $status, $type, length $answer,
    $answer;
  close $client;
}
