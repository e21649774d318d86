-- ARGV: a position up to which the log is on disk, the channel. Readers may see the log up to there.
redis.call('SET', DURABLE, text(math.max(tonumber(ARGV[1]), stored(DURABLE))))
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
