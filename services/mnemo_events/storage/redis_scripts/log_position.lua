-- ARGV: 'durable' or 'trimmed'. Returns that position.
return text(stored(base .. ARGV[1]))
